#include <sys/mman.h>
{% include "region.c" %}
{% include "free/fill.c" %}
static long zapped;

static void setup(void)
{
}

static void prepare(void)
{
	map(SIZE);
	fill();
	zapped = 0;
}

/* Chunks are zapped; whoever zaps the last one unmaps all. */
static void work(long start, long end)
{
	if (end - start < SIZE) {
		long done;

		if (madvise(base + start, end - start, MADV_DONTNEED))
			err(1, "MADV_DONTNEED");
#pragma omp atomic capture
		done = zapped += end - start;
		if (done < SIZE)
			return;
	}
	if (munmap(base, SIZE))
		err(1, "munmap");
}

/* Nothing is mapped where the range was; sets its addresses aside again. */
static void check(void)
{
	int flags = MAP_FIXED_NOREPLACE | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

	if (mmap(base, SIZE, PROT_NONE, flags, -1, 0) != base)
		errx(1, "a part of the range is still mapped");
}

