{% extends "skeleton.c" %}
{% block top %}
#include <linux/if_xdp.h>
#include <sys/socket.h>
#include <unistd.h>
{% include "base.c" %}
#include <stdlib.h>
#include <string.h>

static int sockets[SOCKETS], taken;
static long pinned, before;

/* Pages that were ever pinned (acquired), or let go of (released). */
static long pages(const char *what)
{
	static char text[1 << 16];
	FILE *file = fopen("/proc/vmstat", "r");
	char *line;

	CHECK(file && fread(text, 1, sizeof(text) - 1, file));
	fclose(file);
	line = strstr(text, what);
	CHECK(line);
	return atol(line + strlen(what));
}

/* Each piece is memory for packets of the next socket. */
static void pin(char *at, char *end)
{
	for (int number; at < end; at += MIN(BUFFER, end - at)) {
		struct xdp_umem_reg reg = { .addr = (long)at,
					    .len = MIN(BUFFER, end - at),
					    .chunk_size = 4096 };

		number = __atomic_fetch_add(&taken, 1, __ATOMIC_SEQ_CST);
		CHECK(number < SOCKETS);
		DO(setsockopt(sockets[number], SOL_XDP, XDP_UMEM_REG, &reg,
			      24)); /* as before Linux 5.4 */
		__atomic_fetch_add(&pinned, reg.len, __ATOMIC_SEQ_CST);
	}
}

/* New sockets. A worker of the kernel lets go of what the old ones hold;
 * each CPU keeps up to 125 pages of a counter to itself. */
static void empty(void)
{
	long released = pages("released ");

	for (int k = 0; k < SOCKETS && before; k++)
		close(sockets[k]);
	while (pages("released ") - released <
	       pinned / {{ base_page }} - 125 * sysconf(_SC_NPROCESSORS_CONF))
		usleep(1000);
	for (int k = 0; k < SOCKETS; k++)
		DO(sockets[k] = socket(AF_XDP, SOCK_RAW, 0));
	taken = pinned = 0;
	before = pages("acquired ");
}
{% endblock %}
{% block setup %}
{% include "map.c" %}
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
{% endblock %}
{% block prepare %}
	empty();
{% endblock %}
{% block work %}
		pin(mem + at, mem + at + {{ size }});
{% endblock %}
{% block check %}
	CHECK(pinned == SIZE);
	CHECK(pages("acquired ") - before >=
	      SIZE / {{ base_page }} - 125 * sysconf(_SC_NPROCESSORS_CONF));
{% endblock %}
