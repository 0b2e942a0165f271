#include <sys/mman.h>
{% include "region.c" %}
{% include "free/fill.c" %}
{% include "present.c" %}
static void setup(void)
{
	map(SIZE);
}

static void prepare(void)
{
	fill();
}

static void work(long start, long end)
{
	if (madvise(base + start, end - start, MADV_DONTNEED))
		err(1, "MADV_DONTNEED");
}

static void check(void)
{
	if (bytes_present())
		errx(1, "pages are still there");
}

