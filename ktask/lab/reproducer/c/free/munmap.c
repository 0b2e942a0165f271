#include <sys/mman.h>
{% include "region.c" %}
{% include "free/fill.c" %}
static void setup(void)
{
}

static void prepare(void)
{
	map(SIZE);
	fill();
}

static void work(long start, long end)
{
	if (munmap(base + start, end - start))
		err(1, "munmap");
}

/* Nothing is mapped where the range was; sets its addresses aside again. */
static void check(void)
{
	int flags = MAP_FIXED_NOREPLACE | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

	if (mmap(base, SIZE, PROT_NONE, flags, -1, 0) != base)
		errx(1, "a part of the range is still mapped");
}

