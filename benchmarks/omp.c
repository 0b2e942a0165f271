#define _GNU_SOURCE
/* The engine's peers in C: empty chunks and parallel regions of GCC's OpenMP, timed inside one call. */
#include <errno.h>
#include <fcntl.h>
#include <omp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
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

/* The CPUs of the threads, the caller first. */
static int places[8192], n_places;

double set_places(const int64_t *cpus, int64_t n)
{
    for (n_places = 0; n_places < n && n_places < 8192; n_places++)
        places[n_places] = cpus[n_places];
    return n_places;
}

/* When the clock starts. Threads are asleep by then, each on its CPU, as those of the engine are: waking them is
   part of the work. They go to sleep at once by OMP_WAIT_POLICY=passive. */
static double start(int threads)
{
#pragma omp parallel num_threads(threads)
    if (omp_get_thread_num() < n_places) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(places[omp_get_thread_num()], &one);
        sched_setaffinity(0, sizeof(one), &one);
    }
    double placed = now();
    while (threads > 1 && now() < placed + 3e-4)
        ;
    return now();
}

/* The same for thread functions that may fail, by threads that sleep on their CPUs. Returns seconds, or -1. */
double run_placed(chunk_fn fn, int64_t size, int64_t chunk, int64_t args, int threads)
{
    int64_t n = (size + chunk - 1) / chunk;
    int failed = 0;
    double t0 = start(threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed)
    for (int64_t i = 0; i < n; i++)
        failed |= fn(i * chunk, (i + 1) * chunk < size ? (i + 1) * chunk : size, args) != 0;
    double seconds = now() - t0;
    return failed ? -1 : seconds;
}

/* The same kernel paths by the same calls. `arg` is the advice or protection, or the file. */
enum { MADVISE, MUNMAP, MPROTECT, MLOCK, UFFD_WP, PUNCH_HOLE };

static int call_on(int call, char *at, int64_t length, int arg)
{
    uint64_t wp[3] = {(uint64_t)at, length, 1}; /* struct uffdio_writeprotect */
    switch (call) {
    case MADVISE: return madvise(at, length, arg);
    case MUNMAP: return munmap(at, length);
    case MPROTECT: return mprotect(at, length, arg);
    case MLOCK: return mlock(at, length);
    case UFFD_WP: return ioctl(arg, 0xC018AA06, wp);
    case PUNCH_HOLE: return fallocate(arg, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, (off_t)at, length);
    }
    return -1;
}

/* A range in chunks, one call each (of a file, `base` is the offset). Returns seconds, or -1. */
double in_chunks(int call, char *base, int64_t size, int64_t chunk, int arg, int threads)
{
    int64_t n = (size + chunk - 1) / chunk;
    int failed = 0;
    double t0 = start(threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed)
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = size - i * chunk;
        int code;
        do
            code = call_on(call, base + i * chunk, rest < chunk ? rest : chunk, arg);
        while (code && (errno == EINTR || errno == EAGAIN));
        failed |= code != 0;
    }
    double seconds = now() - t0;
    return failed ? -1 : seconds;
}

/* A whole program: maps memory, fills it by one thread or by all, and frees it in chunks, which alone is timed. */
double fill_and_free(int call, int64_t size, int64_t chunk, int kind, int fillers, int threads)
{
    int64_t border = 2 << 20;
    char *raw = mmap(0, size + border, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *base = (char *)(((uintptr_t)raw + border - 1) / border * border);
    if (raw == MAP_FAILED)
        return -1;
    int failed = madvise(base, size, kind) != 0;
    failed |= in_chunks(MADVISE, base, size, fillers > 1 ? chunk : size, 23, fillers) < 0;
    double seconds = in_chunks(call, base, size, chunk, 4, threads);
    munmap(raw, size + border);
    return failed ? -1 : seconds;
}

/* Forks of this process, whose children wait for their end. */
double fork_here(int64_t n, int64_t *pids, int threads)
{
    int failed = 0;
    double t0 = start(threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed)
    for (int64_t i = 0; i < n; i++) {
        pid_t own = getpid(), pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        if (pid == 0) { /* system calls only: of all threads, the child has this one alone */
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            while (getppid() == own)
                pause();
            _exit(0);
        }
        pids[i] = pid;
        failed |= pid < 0;
    }
    double seconds = now() - t0;
    return failed ? -1 : seconds;
}

/* Each holder forks when told to, on the CPU of the thread that tells it, and answers with the child's number. */
double fork_there(int64_t n, int64_t *pids, int64_t *orders, int64_t *answers, int64_t *holders, int threads)
{
    int failed = 0;
    double t0 = start(threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed)
    for (int64_t i = 0; i < n; i++) {
        cpu_set_t here;
        CPU_ZERO(&here);
        CPU_SET(sched_getcpu(), &here);
        failed |= sched_setaffinity(holders[i], sizeof(here), &here) != 0;
        failed |= write(orders[i], "f", 1) != 1 || read(answers[i], &pids[i], 8) != 8;
    }
    double seconds = now() - t0;
    return failed ? -1 : seconds;
}

/* Children are killed and reaped; a row is where the part ends, pid, status, and whether it was reaped. */
double end_children(int64_t n, int64_t *rows, int threads)
{
    int failed = 0;
    double t0 = start(threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed)
    for (int64_t i = 0; i < n; i++) {
        int64_t *row = rows + 4 * i;
        failed |= kill(row[1], SIGKILL) != 0 || waitpid(row[1], (int *)&row[2], 0) != row[1];
        row[3] = 1;
    }
    double seconds = now() - t0;
    return failed ? -1 : seconds;
}

double cut_files(int64_t n, int64_t *fds, int threads)
{
    int failed = 0;
    double t0 = start(threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed)
    for (int64_t i = 0; i < n; i++)
        failed |= ftruncate(fds[i], 0) != 0;
    double seconds = now() - t0;
    return failed ? -1 : seconds;
}

/* Every 64 MiB (`most`) of a chunk is a fixed buffer of the next ring. */
double register_buffers(char *base, int64_t size, int64_t chunk, int64_t most, int64_t *fds, int64_t n_rings,
                        int threads)
{
    int64_t n = (size + chunk - 1) / chunk, taken = 0;
    int failed = 0;
    double t0 = start(threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed)
    for (int64_t i = 0; i < n; i++) {
        char *at = base + i * chunk, *end = size - i * chunk < chunk ? base + size : at + chunk;
        while (at < end && !failed) {
            int64_t number = __atomic_fetch_add(&taken, 1, __ATOMIC_SEQ_CST);
            uint64_t iovec[2] = {(uint64_t)at, end - at < most ? end - at : most}, tag = 0;
            uint64_t arg[4] = {number / n_rings, (uint64_t)iovec, (uint64_t)&tag, 1};
            failed |= syscall(427, fds[number % n_rings], 16, arg, 32) != 1; /* IORING_REGISTER_BUFFERS_UPDATE */
            at += iovec[1];
        }
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
        double t0 = start(threads);                                                                 \
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
