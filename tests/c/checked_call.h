/* Calls a function of up to four arguments and reports which processor state it changed: registers that belong to the
 * caller, the direction flag, the floating-point control words, and on x86 the upper halves of the vector registers,
 * which slow the caller down if they are not cleared. */
#ifndef CHECKED_CALL_H
#define CHECKED_CALL_H

#include <stddef.h>

#include "cpu.h"

typedef void (*any_function)(void);

#if defined(FM_X86) && defined(__ELF__)
#include <cpuid.h>
#include <xmmintrin.h>

/* Returns what `function` returns; *changed is the number of registers whose value has changed. */
long call_with_marks(any_function function, long a, long b, long c, long d, unsigned *changed);
__asm__(".text\n"
        ".globl call_with_marks\n"
        ".type call_with_marks, @function\n"
        "call_with_marks:\n"
        "    .irp reg, rbx, rbp, r12, r13, r14, r15\n"
        "    push %\\reg\n"
        "    .endr\n"
        "    push %r9\n"
        "    mov %rdi, %rax\n"
        "    mov %rsi, %rdi\n"
        "    mov %rdx, %rsi\n"
        "    mov %rcx, %rdx\n"
        "    mov %r8, %rcx\n"
        "    .set mark, 0x5a5a0000\n"
        "    .irp reg, rbx, rbp, r12, r13, r14, r15\n"
        "    mov $mark, %\\reg\n"
        "    .set mark, mark + 1\n"
        "    .endr\n"
        "    call *%rax\n"
        "    pushfq\n"
        "    pop %r8\n"
        "    shr $10, %r8\n" /* the direction flag */
        "    and $1, %r8d\n"
        "    .set mark, 0x5a5a0000\n"
        "    .irp reg, rbx, rbp, r12, r13, r14, r15\n"
        "    xor $mark, %\\reg\n"
        "    setne %r10b\n"
        "    movzbl %r10b, %r10d\n"
        "    add %r10d, %r8d\n"
        "    .set mark, mark + 1\n"
        "    .endr\n"
        "    cld\n"
        "    pop %r9\n"
        "    mov %r8d, (%r9)\n"
        "    .irp reg, r15, r14, r13, r12, rbp, rbx\n"
        "    pop %\\reg\n"
        "    .endr\n"
        "    ret\n"
        ".size call_with_marks, . - call_with_marks\n");

/* Rounding, denormals and exception masks of SSE and of the x87. */
static unsigned long control_words(void) {
    unsigned short x87;
    __asm__ volatile("fnstcw %0" : "=m"(x87));
    return (_mm_getcsr() & ~0x3fu) | (unsigned long)x87 << 32; /* without the exception flags */
}

/* Whether XGETBV with ECX = 1 reports the upper halves in use. */
static int upper_halves_reported(void) {
    static int reported = -1; /* CPUID is slow on virtual machines */
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (reported < 0) {
        const int saved = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE);
        reported = saved && __get_cpuid_count(0xd, 1, &a, &b, &c, &d) && (a & 1u << 2);
    }
    return reported;
}

static unsigned upper_halves(void) {
    unsigned low = 0, high = 0;
    if (upper_halves_reported()) __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
    return low & 1u << 2;
}

#elif defined(FM_ARM64) && defined(__ELF__)

long call_with_marks(any_function function, long a, long b, long c, long d, unsigned *changed);
__asm__(".text\n"
        ".globl call_with_marks\n"
        ".type call_with_marks, %function\n"
        "call_with_marks:\n"
        "    stp x29, x30, [sp, #-176]!\n"
        "    stp x19, x20, [sp, #16]\n"
        "    stp x21, x22, [sp, #32]\n"
        "    stp x23, x24, [sp, #48]\n"
        "    stp x25, x26, [sp, #64]\n"
        "    stp x27, x28, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]\n"
        "    stp d10, d11, [sp, #112]\n"
        "    stp d12, d13, [sp, #128]\n"
        "    stp d14, d15, [sp, #144]\n"
        "    str x5, [sp, #160]\n"
        "    mov x16, x0\n"
        "    mov x0, x1\n"
        "    mov x1, x2\n"
        "    mov x2, x3\n"
        "    mov x3, x4\n"
        "    .irp n, 8, 9, 10, 11, 12, 13, 14, 15\n"
        "    mov x9, #0x5a0 + \\n\n"
        "    fmov d\\n, x9\n"
        "    .endr\n"
        "    .irp n, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28\n"
        "    mov x\\n, #0x5a0 + \\n\n"
        "    .endr\n"
        "    blr x16\n"
        "    mov w11, #0\n"
        "    .irp n, 8, 9, 10, 11, 12, 13, 14, 15\n"
        "    fmov x9, d\\n\n"
        "    cmp x9, #0x5a0 + \\n\n"
        "    cinc w11, w11, ne\n"
        "    .endr\n"
        "    .irp n, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28\n"
        "    cmp x\\n, #0x5a0 + \\n\n"
        "    cinc w11, w11, ne\n"
        "    .endr\n"
        "    ldr x9, [sp, #160]\n"
        "    str w11, [x9]\n"
        "    ldp x19, x20, [sp, #16]\n"
        "    ldp x21, x22, [sp, #32]\n"
        "    ldp x23, x24, [sp, #48]\n"
        "    ldp x25, x26, [sp, #64]\n"
        "    ldp x27, x28, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]\n"
        "    ldp d10, d11, [sp, #112]\n"
        "    ldp d12, d13, [sp, #128]\n"
        "    ldp d14, d15, [sp, #144]\n"
        "    ldp x29, x30, [sp], #176\n"
        "    ret\n"
        ".size call_with_marks, . - call_with_marks\n");

static unsigned long control_words(void) {
    unsigned long fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
}

static inline int upper_halves_reported(void) { return 0; }
static unsigned upper_halves(void) { return 0; }

#else
#error "call_with_marks is not written for this processor"
#endif

static long checked_call(any_function function, const void *a, const void *b, const void *c, const void *d,
                         const char **wrong) {
    unsigned changed = 0;
    const unsigned long words = control_words();
    const long result = call_with_marks(function, (long)a, (long)b, (long)c, (long)d, &changed);
    *wrong = changed                    ? "a register of the caller's"
             : control_words() != words ? "a floating-point control word"
             : upper_halves()           ? "the upper halves of the vector registers"
                                        : NULL;
    return result;
}

#endif
