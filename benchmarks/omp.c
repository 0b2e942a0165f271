#define _GNU_SOURCE
/* The engine's peers in C: empty chunks and parallel regions of GCC's OpenMP, timed inside one call. */
#include <omp.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

typedef int64_t (*chunk_fn)(int64_t start, int64_t end, int64_t args);

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* The thread function is called by address, as the engine does it, so that no compiler sees through it. */
double run_dynamic(chunk_fn fn, int64_t size, int64_t chunk, int64_t args, int threads)
{
    int64_t n = (size + chunk - 1) / chunk;
    double t0 = now();
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t i = 0; i < n; i++)
        fn(i * chunk, (i + 1) * chunk < size ? (i + 1) * chunk : size, args);
    return now() - t0;
}

double run_static(chunk_fn fn, int64_t size, int64_t chunk, int64_t args, int threads)
{
    int64_t n = (size + chunk - 1) / chunk;
    double t0 = now();
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i++)
        fn(i * chunk, (i + 1) * chunk < size ? (i + 1) * chunk : size, args);
    return now() - t0;
}

/* The same kernel paths by the same calls: madvise over a range, or munmap if there is no advice (below 0), in
   chunks. Returns seconds, or -1. */
double advise(char *base, int64_t size, int64_t chunk, int advice, int threads)
{
    int64_t n = (size + chunk - 1) / chunk;
    int failed = 0;
    double t0 = now();
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed)
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = size - i * chunk, length = rest < chunk ? rest : chunk;
        char *at = base + i * chunk;
        failed |= (advice < 0 ? munmap(at, length) : madvise(at, length, advice)) != 0;
    }
    double seconds = now() - t0;
    return failed ? -1 : seconds;
}

/* Zeroing of resident memory: every thread its part, a multiple of 64 bytes, as a static loop shares it out. */
static void part_of(int64_t size, int64_t *start, int64_t *end)
{
    int64_t lines = size / 64, n = omp_get_num_threads(), k = omp_get_thread_num();
    *start = lines * k / n * 64;
    *end = k + 1 == n ? size : lines * (k + 1) / n * 64;
}

double zero_memset(char *base, int64_t size, int threads)
{
    double t0 = now();
#pragma omp parallel num_threads(threads)
    {
        int64_t start, end;
        part_of(size, &start, &end);
        memset(base + start, 0, end - start);
    }
    return now() - t0;
}

#ifdef __x86_64__
__attribute__((target("avx512f"))) static void stream_512(char *start, char *end)
{
    for (; start < end; start += 64)
        _mm512_stream_si512((__m512i *)start, _mm512_setzero_si512());
    _mm_sfence();
}

static void stream_128(char *start, char *end)
{
    for (; start < end; start += 16)
        _mm_stream_si128((__m128i *)start, _mm_setzero_si128());
    _mm_sfence();
}
#endif

/* By non-temporal stores; base and size are multiples of 64. Returns -1 where there is no intrinsic for them. */
double zero_stream(char *base, int64_t size, int threads)
{
#ifdef __x86_64__
    int wide = __builtin_cpu_supports("avx512f");
    double t0 = now();
#pragma omp parallel num_threads(threads)
    {
        int64_t start, end;
        part_of(size, &start, &end);
        (wide ? stream_512 : stream_128)(base + start, base + end);
    }
    return now() - t0;
#else
    return -1;
#endif
}

/* Page walks over one range by the same calls: pages present in `count`. Return seconds, or -1. */
#define WALK(NAME, STATE, ...)                                                                      \
    double NAME(int fd, char *base, int64_t size, int64_t chunk, int threads, int64_t *count)       \
    {                                                                                               \
        int64_t n = (size + chunk - 1) / chunk, found = 0;                                          \
        int failed = 0;                                                                             \
        double t0 = now();                                                                          \
        _Pragma("omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(+ : found, failed)") \
        for (int64_t i = 0; i < n; i++)                                                             \
        {                                                                                           \
            STATE;                                                                                  \
            char *at = base + i * chunk;                                                            \
            char *end = size - i * chunk < chunk ? base + size : at + chunk;                        \
            while (at < end && !failed)                                                             \
                __VA_ARGS__                                                                         \
        }                                                                                           \
        double seconds = now() - t0;                                                                \
        *count = found;                                                                             \
        return failed ? -1 : seconds;                                                               \
    }

WALK(walk_pagemap, uint64_t entries[8192], {
    int64_t pages = (end - at) / 4096 < 8192 ? (end - at) / 4096 : 8192;
    int64_t got = pread(fd, entries, pages * 8, (uint64_t)at / 4096 * 8) / 8;
    for (int64_t k = 0; k < got; k++)
        found += entries[k] >> 63;
    failed |= got <= 0;
    at += got * 4096;
})

WALK(walk_mincore, unsigned char resident[65536], {
    int64_t pages = (end - at) / 4096 < 65536 ? (end - at) / 4096 : 65536;
    failed |= mincore(at, pages * 4096, resident) != 0;
    for (int64_t k = 0; k < pages; k++)
        found += resident[k] & 1;
    at += pages * 4096;
})

/* As in <linux/fs.h> since Linux 6.7, which the headers here may not be. */
struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, anyof, returned;
};
struct region {
    uint64_t start, end, categories;
};
#define PRESENT (1 << 3)

WALK(walk_scan, struct region regions[2048], {
    struct scan_arg arg = {.size = sizeof(arg), .start = (uint64_t)at, .end = (uint64_t)end,
                           .vec = (uint64_t)regions, .vec_len = 2048, .anyof = PRESENT, .returned = PRESENT};
    long got = ioctl(fd, 0xC0606610, &arg);
    for (long k = 0; k < got; k++)
        found += (regions[k].end - regions[k].start) / 4096;
    failed |= got < 0;
    at = (char *)arg.walk_end;
    if (got > 0 && (char *)regions[got - 1].end > at)
        at = (char *)regions[got - 1].end;
})
