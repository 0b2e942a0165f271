{% extends "skeleton.c" %}
{% block top %}
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
{% include "base.c" %}
#define REGISTER(ring, code, arg) \
	syscall(SYS_io_uring_register, ring, code, arg, sizeof(*arg))

static int rings[RINGS], taken;
static struct io_uring_params params[RINGS];
{% include "status.c" %}

/* Pin for DMA: each piece is a fixed buffer of the next ring (Linux 5.19). */
static void pin(char *at, char *end)
{
	for (int number; at < end;) {
		struct iovec v = { at, MIN(BUFFER, end - at) };
		struct io_uring_rsrc_update2 up = { 0, 0, (long)&v, 0, 1, 0 };

#pragma omp atomic capture
		number = taken++;
		up.offset = number / RINGS;
		CHECK(REGISTER(rings[number % RINGS], 16 /* add */, &up) > 0);
		at += v.iov_len;
	}
}
{% endblock %}
{% block variables %}
	struct io_uring_rsrc_register table = { 1024, 1 /* sparse */, 0, 0, 0 };
{% endblock %}
{% block setup %}
{% include "map.c" %}
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
	for (int k = 0; k < RINGS; k++)
		DO(rings[k] = syscall(SYS_io_uring_setup, 1, &params[k]));
{% endblock %}
{% block prepare %}
	for (int k = 0; k < RINGS; k++) {
		syscall(SYS_io_uring_register, rings[k], 1 /* drop */, 0, 0);
		DO(REGISTER(rings[k], IORING_REGISTER_BUFFERS2, &table));
	}
	taken = 0;
{% endblock %}
{% block work %}
		pin(mem + at, mem + at + {{ size }});
{% endblock %}
{% block check %}
	CHECK(status("VmPin:") == SIZE);
{% endblock %}
