/* Tiles live in registers only if every loop over them is fully unrolled: left to itself, gcc unrolls in
 * part and spills the accumulators, at less than half the speed. */
#if defined(__clang__)
#define FM_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define FM_UNROLL _Pragma("GCC unroll 32")
#else
#define FM_UNROLL
#endif

/* A loop that stays one, although what is in it is unrolled. */
#if defined(__clang__)
#define FM_ROLLED _Pragma("clang loop unroll(disable)")
#elif defined(__GNUC__)
#define FM_ROLLED _Pragma("GCC unroll 1")
#else
#define FM_ROLLED
#endif

/* No load is moved across this: gcc 12 would load for several steps of a tile at once, and spill the accumulators. */
#if defined(__GNUC__)
#define FM_STEP_ENDS() __asm__("" ::: "memory")
#else
#define FM_STEP_ENDS() (void)0
#endif

/* Always, for the vocabulary too: gcc 12 takes a function that only prefetches for one without effect, and
 * drops the calls that it has not yet inlined. */
#if defined(_MSC_VER)
#define FM_INLINE static __forceinline
#else
#define FM_INLINE static inline __attribute__((always_inline))
#endif
