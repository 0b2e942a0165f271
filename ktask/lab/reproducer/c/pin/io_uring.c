#include <errno.h>
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
{% include "region.c" %}
{% include "populate.c" %}
{% include "status.c" %}
#define SLOTS 1024

static int rings[RINGS], taken;

static int ring_register(int fd, int code, void *arg, int count)
{
	return syscall(SYS_io_uring_register, fd, code, arg, count);
}

/* A table of fixed buffers with empty slots (Linux 5.19). */
static void make_table(int fd)
{
	struct io_uring_rsrc_register table = { .nr = SLOTS, .flags = IORING_RSRC_REGISTER_SPARSE };

	if (ring_register(fd, IORING_REGISTER_BUFFERS2, &table, sizeof(table)))
		err(1, "IORING_REGISTER_BUFFERS2");
}

static void setup(void)
{
	map(SIZE);
	populate(SIZE);
	for (int k = 0; k < RINGS; k++) {
		struct io_uring_params params = { 0 };

		rings[k] = syscall(SYS_io_uring_setup, 1, &params);
		if (rings[k] < 0)
			err(1, "io_uring_setup");
		make_table(rings[k]);
	}
}

static void prepare(void)
{
	for (int k = 0; k < RINGS; k++) {
		if (ring_register(rings[k], IORING_UNREGISTER_BUFFERS, NULL, 0))
			err(1, "IORING_UNREGISTER_BUFFERS");
		make_table(rings[k]);
	}
	taken = 0;
}

/* Pin for DMA: each piece is a fixed buffer of the next ring. */
static void work(long start, long end)
{
	while (start < end) {
		struct iovec piece = { base + start, end - start < BUFFER ? end - start : BUFFER };
		uint64_t tag = 0;
		struct io_uring_rsrc_update2 arg = {
			.data = (uintptr_t)&piece,
			.tags = (uintptr_t)&tag,
			.nr = 1,
		};
		int number, fd;

#pragma omp atomic capture
		number = taken++;
		arg.offset = number / RINGS;
		fd = rings[number % RINGS];
		if (ring_register(fd, IORING_REGISTER_BUFFERS_UPDATE, &arg, sizeof(arg)) == 1)
			start += piece.iov_len;
		else if (errno != EAGAIN)
			err(1, "IORING_REGISTER_BUFFERS_UPDATE");
	}
}

static void check(void)
{
	if (status_bytes(getpid(), "VmPin:") != SIZE)
		errx(1, "not all of it is pinned");
}

