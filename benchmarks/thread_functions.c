#define _GNU_SOURCE
/* Thread functions of workloads, written again in C with the same arguments: the words of the engine's task. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KILL_FAILED = 1, CANCELED = 125, NO_SPACE = 28, SLOTS = 1024, MPOL_MOVE = 2 };
enum { POPULATE_WRITE = 23, DONTNEED = 4, CONTENT = 0xA5 };
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define PIECE (64 << 10)
#define BUFFER (64 << 20)

static int64_t get(int64_t address)
{
    return __atomic_load_n((int64_t *)address, __ATOMIC_SEQ_CST);
}

static void set(int64_t address, int64_t value)
{
    __atomic_store_n((int64_t *)address, value, __ATOMIC_SEQ_CST);
}

static int64_t add(int64_t address, int64_t value)
{
    return __atomic_fetch_add((int64_t *)address, value, __ATOMIC_SEQ_CST);
}

static int advise(int64_t at, int64_t length, int advice)
{
    int failed;
    do
        failed = madvise((void *)at, length, advice);
    while (failed && errno == EINTR);
    return failed ? errno : 0;
}

static int reap_child(int64_t pid, int *status)
{
    while (waitpid(pid, status, 0) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

/* base, page size, advice */
int64_t advise_pages(int64_t start, int64_t end, const int64_t *a)
{
    return advise(a[0] + start * a[1], (end - start) * a[1], a[2]);
}

/* base, page size */
int64_t unlock(int64_t start, int64_t end, const int64_t *a)
{
    return munlock((void *)(a[0] + start * a[1]), (end - start) * a[1]) ? errno : 0;
}

static int lock_range(int64_t at, int64_t length)
{
    int failed = 1;
    for (int k = 0; k < 100 && failed; k++)
        if (!(failed = mlock((void *)at, length)) || (errno != EAGAIN && errno != EINTR))
            break;
    return failed ? errno : 0;
}

/* A buffer, or none, in a slot, counted over all rings in turn. */
static int update(const int64_t *fds, int64_t n_rings, int64_t number, int64_t at, int64_t length)
{
    uint64_t iovec[2] = {at, length}, tag = 0;
    uint64_t arg[4] = {number / n_rings, (uint64_t)iovec, (uint64_t)&tag, 1};
    long done;
    do
        done = syscall(427, fds[number % n_rings], 16, arg, 32); /* IORING_REGISTER_BUFFERS_UPDATE */
    while (done < 0 && (errno == EINTR || errno == EAGAIN));
    return done == 1 ? 0 : done < 0 ? errno : EIO;
}

static int pin_range(int64_t at, int64_t end, int64_t most, const int64_t *fds, int64_t n_rings, int64_t taken)
{
    int code = 0;
    for (; at < end && !code; at += MIN(end - at, most)) {
        int64_t number = add(taken, 1);
        code = number >= n_rings * SLOTS ? NO_SPACE : update(fds, n_rings, number, at, MIN(end - at, most));
    }
    return code;
}

/* files, how many */
int64_t unregister(int64_t start, int64_t end, const int64_t *a)
{
    int code = 0;
    for (int64_t number = start; number < end && !code; number++)
        code = update((int64_t *)a[0], a[1], number, 0, 0);
    return code;
}

/* base, page size, sockets, how many, taken and then the bytes of each, bytes per piece */
int64_t register_umem(int64_t start, int64_t end, const int64_t *a)
{
    int64_t stop = a[0] + end * a[1], length;
    for (int64_t at = a[0] + start * a[1]; at < stop; at += length) {
        int64_t number = add(a[4], 1), failed;
        uint64_t reg[3] = {at, (length = MIN(stop - at, a[5])), 4096}; /* struct xdp_umem_reg */
        if (number >= a[3])
            return NO_SPACE;
        do
            failed = syscall(SYS_setsockopt, ((int64_t *)a[2])[number], 283, 4, reg, sizeof(reg));
        while (failed && errno == EINTR);
        if (failed)
            return errno;
        set(a[4] + 8 + 8 * number, length);
    }
    return 0;
}

/* `rings`: files, how many, buffers taken; without files the range is locked. */
static int step(int stage, int64_t at, int64_t length, int64_t page, const int64_t *rings)
{
    if (stage == 0)
        return advise(at, length, POPULATE_WRITE);
    if (stage == 1 && rings[1] == 0)
        return lock_range(at, length);
    if (stage == 1)
        return pin_range(at, at + length, MAX(BUFFER, page), (int64_t *)rings[0], rings[1], rings[2]);
    memset((void *)at, CONTENT, length);
    return 0;
}

/* base, page size, rings */
int64_t start_fused(int64_t start, int64_t end, const int64_t *a)
{
    int code = 0;
    for (int stage = 0; stage < 3 && !code; stage++)
        code = step(stage, a[0] + start * a[1], (end - start) * a[1], a[1], a + 2);
    return code;
}

/* base, page size, pages, words (done, failed), rings */
int64_t start_in_stages(int64_t start, int64_t end, const int64_t *a)
{
    int64_t size = a[2], done = a[3], failed = a[3] + 8;
    for (int stage = 0; stage < 3; stage++) {
        int64_t first = MAX(start - stage * size, 0), last = MIN(end - stage * size, size);
        if (first >= last)
            continue;
        while (get(done) < stage * size) {
            if (get(failed))
                return CANCELED;
            sched_yield();
        }
        int code = step(stage, a[0] + first * a[1], (last - first) * a[1], a[1], a + 4);
        if (code) {
            set(failed, 1);
            return code;
        }
        add(done, last - first);
    }
    return 0;
}

/* words: process, its file, killed, status, reaped, and one per unit */
int64_t reap(int64_t start, int64_t end, const int64_t *a)
{
    int64_t words = a[0], pid = get(words);
    int code = 0;
    if (start == 0) {
        int failed = kill(pid, SIGKILL);
        set(words + 16, failed ? 2 : 1);
        if (failed)
            return KILL_FAILED;
        if ((code = reap_child(pid, (int *)(words + 24))))
            return code;
        set(words + 32, 1);
    } else {
        while (get(words + 16) == 0)
            sched_yield();
        if (syscall(448, get(words + 8), 0)) /* process_mrelease */
            code = errno;
    }
    if (code && code != ESRCH && code != EAGAIN)
        return code;
    for (int64_t k = start; k < end; k++)
        set(words + 40 + 8 * k, code + 1);
    return 0;
}

static int operate(int work, int64_t at, int64_t length)
{
    char *place = (char *)at;
    int pid, status, code;
    switch (work) {
    case 0: return advise(at, length, POPULATE_WRITE);
    case 1: return advise(at, length, DONTNEED);
    case 2:
        if (mmap(place, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | 0x100000, -1, 0) != place)
            return errno;
        *(volatile char *)place = 1;
        return munmap(place, PIECE) ? errno : 0;
    case 3:
        return mprotect(place, PIECE, PROT_READ) || mprotect(place, PIECE, PROT_READ | PROT_WRITE) ? errno : 0;
    }
    pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(0);
    if (pid < 0)
        return errno;
    code = reap_child(pid, &status);
    return code ? code : status ? ECHILD : 0;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* words (who took each unit, operations of each, over, begun), work, base, bytes, step; and of the other thread:
   work, base, whether there is one */
int64_t mix(int64_t start, int64_t end, const int64_t *a)
{
    int64_t words = a[0], over = words + 32, begun = words + 40;
    int code = 0;
    if (start == 0) {
        double until = seconds() + 1;
        set(words, gettid());
        while (a[7] && end == 1 && !get(begun) && seconds() < until)
            sched_yield();
        for (int64_t at = 0; at < a[3] && !code; at += a[4], add(words + 16, 1))
            code = operate(a[1], a[2] + at, MIN(a[4], a[3] - at));
        set(over, 1);
    }
    if (end < 2 || code)
        return code;
    set(words + 8, gettid());
    for (set(begun, 1); !get(over) && !code; add(words + 24, 1)) {
        if (a[5] < 2) /* what it undoes has to be there */
            code = advise(a[6], PIECE, a[5] ? POPULATE_WRITE : DONTNEED);
        code = code ? code : operate(a[5], a[6], PIECE);
    }
    return code;
}

/* addresses, nodes, answers, pages per call */
int64_t move(int64_t start, int64_t end, const int64_t *a)
{
    for (int64_t at = start; at < end; at += a[3]) {
        void *pages = (void *)(a[0] + 8 * at), *nodes = (void *)(a[1] + 4 * at), *answers = (void *)(a[2] + 4 * at);
        if (syscall(SYS_move_pages, 0, MIN(a[3], end - at), pages, nodes, answers, MPOL_MOVE) < 0)
            return errno;
    }
    return 0;
}
