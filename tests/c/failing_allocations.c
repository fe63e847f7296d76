/* Preloaded into Python: makes the n-th C allocation of the extension module fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

void *__libc_calloc(size_t count, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);

static long failing = -1, asked;

/* After `n` more allocations, one fails. If `n` is negative, none fails. Returns the number of allocations since the
 * last call. */
long fail_after(long n);
long fail_after(long n) {
    const long before = asked;
    failing = n;
    asked = 0;
    return before;
}

static int refused(void *caller) {
    Dl_info info;
    return failing >= 0 && dladdr(caller, &info) && strstr(info.dli_fname, "/_engine.") && asked++ == failing;
}

void *calloc(size_t count, size_t bytes) {
    return refused(__builtin_return_address(0)) ? NULL : __libc_calloc(count, bytes);
}

int posix_memalign(void **block, size_t align, size_t bytes) {
    if (refused(__builtin_return_address(0))) return ENOMEM;
    *block = __libc_memalign(align, bytes);
    return *block ? 0 : ENOMEM;
}
