/* Which instruction sets the processor has and the operating system supports, and on which processors threads run. */
#ifndef FM_CPU_H
#define FM_CPU_H

#if defined(__x86_64__) || defined(_M_X64)
#define FM_X86 1
#elif defined(__aarch64__) || defined(_M_ARM64)
#define FM_ARM64 1
#endif

int fm_cpu_any(void);        /* 1: for tables that every processor of the family can run */
int fm_cpu_has_avx2(void);   /* AVX2 and FMA */
int fm_cpu_has_avx512(void); /* AVX-512 F, VL, DQ and BW, which all servers with AVX-512 have */

int fm_cpu_has_avxvnni(void);    /* AVX2, and AVX-VNNI: desktops since Alder Lake, Zen 5 */
int fm_cpu_has_avx512vnni(void); /* AVX-512 as above, and VNNI: servers since Cascade Lake, Zen 4 */
int fm_cpu_has_dotprod(void);    /* ARMv8.2's dot products of four bytes */

/* Whether a 512-bit operation is executed as two 256-bit ones, as on Zen 4, so that it does no more per cycle. There,
 * the 256-bit tile reaches 86 to 97 % of the peak on 24, 72 and 120 columns, and tpl/pairs.inc gains nothing. On
 * full-width processors the 256-bit tile can't exceed 50 %. */
int fm_cpu_half_width(void);

int fm_current_cpu(void); /* the processor that the calling thread runs on; -1 if unknown */

/* Move the calling thread to a processor that is not in `cpus`, if its affinity allows one. It may return later. */
void fm_leave_cpus(const int *cpus, int count);

int fm_affinity_cpus(void); /* number of processors that the calling thread may run on; 0 if unknown */

#endif
