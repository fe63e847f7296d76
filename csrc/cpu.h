/* What the processor has and the operating system saves. */
#ifndef FM_CPU_H
#define FM_CPU_H

#if defined(__x86_64__) || defined(_M_X64)
#define FM_X86 1
#elif defined(__aarch64__) || defined(_M_ARM64)
#define FM_ARM64 1
#endif

int fm_cpu_any(void);        /* 1: for what every processor of the family can run */
int fm_cpu_has_avx2(void);   /* AVX2 and FMA */
int fm_cpu_has_avx512(void); /* AVX-512 F, VL, DQ and BW: every server and desktop part since 2017 */

int fm_cpu_has_avxvnni(void);    /* AVX2, and AVX-VNNI: desktops since Alder Lake, Zen 5 */
int fm_cpu_has_avx512vnni(void); /* AVX-512 as above, and VNNI: servers since Cascade Lake, Zen 4 */
int fm_cpu_has_dotprod(void);    /* ARMv8.2's dot products of four bytes */

int fm_affinity_cpus(void); /* processors that the calling thread may run on; 0 where that can't be known */

#endif
