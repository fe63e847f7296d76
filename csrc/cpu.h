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

/* Whether 512-bit operations take two turns of 256 bits, as on Zen 4: twice the lanes, but no more a cycle. There the
 * 256-bit tile reaches 86 to 97 % of the peak on 24, 72 and 120 columns, and nothing is left to gain from pairs. On
 * full-width processors it can't pass 50 %. */
int fm_cpu_half_width(void);

int fm_current_cpu(void); /* the processor that the calling thread runs on; -1 where that can't be known */
/* Has the calling thread go on running on another processor than these, if it may; it is free to come back later. */
void fm_leave_cpus(const int *cpus, int count);

int fm_affinity_cpus(void); /* processors that the calling thread may run on; 0 where that can't be known */

#endif
