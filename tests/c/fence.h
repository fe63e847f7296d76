/* Arrays at guard pages: each ends right before an unreadable page or, with fence_front, starts right after one. */
#ifndef FENCE_H
#define FENCE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FENCED = 16, CANARY = 0x5a };

static struct {
    char *base, *array;
    size_t body, bytes;
} fences[FENCED];
static int fence_count, fence_front, failures, checks;

static void *fenced(size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page - 1) / page * page;
    if (fence_count == FENCED) abort();
    char *base = mmap(NULL, body + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + page, body, PROT_READ | PROT_WRITE)) abort();
    memset(base + page, CANARY, body); /* canaries around the array, checked at the end */
    char *array = base + page + (fence_front ? 0 : body - bytes);
    fences[fence_count].base = base;
    fences[fence_count].array = array;
    fences[fence_count].body = body;
    fences[fence_count++].bytes = bytes;
    return array;
}

/* Write-protect the arrays made so far. */
static void seal(void) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < fence_count; i++) {
        if (mprotect(fences[i].base + page, fences[i].body, PROT_READ)) abort();
    }
}

/* Check the canaries on the side without a guard page, then unmap every array. */
static void release(void) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    while (fence_count > 0) {
        fence_count--;
        char *body = fences[fence_count].base + page, *array = fences[fence_count].array;
        for (char *p = body; p < body + fences[fence_count].body; p++) {
            if ((p < array || p >= array + fences[fence_count].bytes) && *p != CANARY) {
                printf("FAIL a byte %td from an array of %zu was written\n", p - array, fences[fence_count].bytes);
                failures++;
                break;
            }
        }
        munmap(fences[fence_count].base, fences[fence_count].body + 2 * page);
    }
}

#endif
