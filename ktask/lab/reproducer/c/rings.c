#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#define REGISTER(ring, code, arg) \
	syscall(SYS_io_uring_register, ring, code, arg, sizeof(*arg))

static int rings[RINGS], taken;
static struct io_uring_params params[RINGS];

/* Put a buffer, or nothing, into a slot of the rings (Linux 5.19). */
static void update(int number, char *at, long bytes)
{
	struct iovec v = { at, bytes };
	struct io_uring_rsrc_update2 up = { .offset = number / RINGS,
					    .data = (long)&v, .nr = 1 };

	CHECK(REGISTER(rings[number % RINGS], 16 /* update */, &up) > 0);
}

{% if method != "io_uring_unpin" %}
/* Pin for DMA: each piece is a fixed buffer of the next ring. */
static void pin(char *at, char *end)
{
	for (int number; at < end; at += MIN(BUFFER, end - at)) {
#pragma omp atomic capture
		number = taken++;
		update(number, at, MIN(BUFFER, end - at));
	}
}

{% endif %}
/* Take all pins away. */
static void empty(void)
{
	struct io_uring_rsrc_register table = { 1024, 1 /* sparse */, 0, 0, 0 };

	for (int k = 0; k < RINGS; k++) {
		syscall(SYS_io_uring_register, rings[k], 1 /* drop */, 0, 0);
		DO(REGISTER(rings[k], IORING_REGISTER_BUFFERS2, &table));
	}
	taken = 0;
}
