#include <fcntl.h>
#include <sys/ioctl.h>
{% include "page_walk/space.c" %}
/* <linux/fs.h> of Linux 6.7 */
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct scan_region {
	uint64_t start, end, categories;
};
#define SCAN _IOWR('f', 16, struct scan_arg)
#define PRESENT (1 << 3)

static int pagemap;

static void setup(void)
{
	fill_space();
	pagemap = open("/proc/self/pagemap", O_RDONLY);
}

/* Count present pages; one call does it unless there are more regions than fit. */
static void work(long start, long end)
{
	struct scan_region regions[2048];
	uint64_t at = (uint64_t)base + start, bytes = 0;

	while (at < (uint64_t)base + end) {
		struct scan_arg arg = {
			.size = sizeof(arg), .start = at, .end = (uint64_t)base + end,
			.vec = (uint64_t)regions, .vec_len = 2048,
			.category_anyof_mask = PRESENT, .return_mask = PRESENT,
		};
		int got = ioctl(pagemap, SCAN, &arg);

		if (got < 0)
			err(1, "PAGEMAP_SCAN");
		for (int k = 0; k < got; k++)
			bytes += regions[k].end - regions[k].start;
		at = arg.walk_end; /* Linux 6.18 may name a place before the last region */
		if (got && regions[got - 1].end > at)
			at = regions[got - 1].end;
	}
#pragma omp atomic
	found += bytes / BASE_PAGE;
}

