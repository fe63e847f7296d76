/* Tiles live in registers only if every loop over them is fully unrolled: left to itself, gcc unrolls in
 * part and spills the accumulators, at less than half the speed. */
#if defined(__clang__)
#define FM_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define FM_UNROLL _Pragma("GCC unroll 32")
#else
#define FM_UNROLL
#endif

/* Always, for the vocabulary too: gcc 12 takes a function that only prefetches for one without effect, and
 * drops the calls that it has not yet inlined. */
#if defined(_MSC_VER)
#define FM_INLINE static __forceinline
#else
#define FM_INLINE static inline __attribute__((always_inline))
#endif
