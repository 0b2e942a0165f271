#include <fcntl.h>
#include <unistd.h>
{% include "page_walk/space.c" %}
static int pagemap;

static void setup(void)
{
	fill_space();
	pagemap = open("/proc/self/pagemap", O_RDONLY);
}

/* Count present pages in pieces of 64 KiB. */
static void work(long start, long end)
{
	uint64_t entries[8192];
	long pages = 0, got;

	for (long at = (long)base + start; at < (long)base + end; at += got * BASE_PAGE) {
		long left = ((long)base + end - at) / BASE_PAGE;

		got = pread(pagemap, entries, 8 * (left < 8192 ? left : 8192), at / BASE_PAGE * 8) / 8;
		if (got <= 0)
			err(1, "pagemap");
		for (long k = 0; k < got; k++)
			pages += entries[k] >> 63; /* bit 63: present */
	}
#pragma omp atomic
	found += pages;
}

