{% extends "page_walk/count.c" %}
{% block walk %}
#include <fcntl.h>
#include <sys/ioctl.h>
/* <linux/fs.h> of Linux 6.7 */
struct region { uint64_t start, end, categories; };
struct scan {
	uint64_t size, flags, start, end, walk_end, regions, n_regions, max,
		 inverted, all_of, any_of, wanted;
};
static int pagemap;

/* Count pages; one call does it unless there are more regions than fit. */
static void walk(char *from, long size)
{
	uint64_t bytes = 0, at = (uint64_t)from, end = at + size;
	struct region regions[2048];
	int got;

	while (at < end) {
		struct scan arg = { sizeof(arg), 0, at, end, 0, (long)regions,
				    2048, 0, 0, 0, 8, 8 /* present */ };

		DO(got = ioctl(pagemap, _IOWR('f', 16, struct scan), &arg));
		for (int k = 0; k < got; k++)
			bytes += regions[k].end - regions[k].start;
		/* Linux 6.18 may name a place before the last region. */
		at = MAX(arg.walk_end, got ? regions[got - 1].end : 0);
	}
#pragma omp atomic
	found += bytes / PAGE;
}
{% endblock %}
{% block open %}
	DO(pagemap = open("/proc/self/pagemap", O_RDONLY));
{% endblock %}
