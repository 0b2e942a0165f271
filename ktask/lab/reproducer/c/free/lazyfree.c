#include <sys/mman.h>
{% include "region.c" %}
{% include "smaps.c" %}
{% include "free/fill.c" %}
static void setup(void)
{
	map(SIZE);
}

static void prepare(void)
{
	if (madvise(base, SIZE, MADV_DONTNEED)) /* a page is marked only once */
		err(1, "MADV_DONTNEED");
	fill();
}

static void work(long start, long end)
{
	if (madvise(base + start, end - start, MADV_FREE))
		err(1, "MADV_FREE");
}

static void check(void)
{
	/* Each CPU has marked pages in a batch; unmapping anything empties that. */
#pragma omp parallel num_threads(THREADS)
	munmap(mmap(NULL, BASE_PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0), BASE_PAGE);
	if (smaps_bytes("LazyFree:") != SIZE)
		errx(1, "not all of it is marked as lazily free");
}

