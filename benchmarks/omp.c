#define _GNU_SOURCE
/* The engine's peers in C: empty chunks and parallel regions of GCC's OpenMP, timed inside one call. */
#include <omp.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

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
