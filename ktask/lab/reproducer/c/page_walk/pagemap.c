{% extends "page_walk/count.c" %}
{% block walk %}
#include <fcntl.h>
#include <unistd.h>
static int pagemap;

/* Count pages in pieces of 64 KiB. */
static void walk(char *at, long size)
{
	uint64_t entries[8192];
	long got, pages = 0;

	for (char *end = at + size; at < end; at += got / 8 * PAGE) {
		got = MIN(8 * (end - at) / PAGE, (long)sizeof(entries));
		DO(got = pread(pagemap, entries, got, (long)at / PAGE * 8));
		for (long k = 0; k < got / 8; k++)
			pages += entries[k] >> 63; /* bit 63: present */
	}
#pragma omp atomic
	found += pages;
}
{% endblock %}
{% block open %}
	DO(pagemap = open("/proc/self/pagemap", O_RDONLY));
{% endblock %}
