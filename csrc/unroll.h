/* Tiles stay in registers only if every loop over them is fully unrolled. By default gcc unrolls them partly and spills
 * the accumulators, which takes more than twice as long. */
#if defined(__clang__)
#define FM_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define FM_UNROLL _Pragma("GCC unroll 32")
#else
#define FM_UNROLL
#endif

/* A loop that is not unrolled, although the loops inside it are. */
#if defined(__clang__)
#define FM_ROLLED _Pragma("clang loop unroll(disable)")
#elif defined(__GNUC__)
#define FM_ROLLED _Pragma("GCC unroll 1")
#else
#define FM_ROLLED
#endif

/* Stops the compiler from moving loads across this point: gcc 12 would load for several steps of a tile and spill
 * accumulators. */
#if defined(__GNUC__)
#define FM_STEP_ENDS() __asm__("" ::: "memory")
#else
#define FM_STEP_ENDS() (void)0
#endif

/* Always inlined, also in the vocabularies: gcc 12 assumes that a function that only prefetches has no effect, and
 * drops calls of it that are not inlined yet. */
#if defined(_MSC_VER)
#define FM_INLINE static __forceinline
#else
#define FM_INLINE static inline __attribute__((always_inline))
#endif
