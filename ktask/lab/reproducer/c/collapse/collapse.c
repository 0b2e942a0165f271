#include <errno.h>
{% include "region.c" %}
{% include "populate.c" %}
{% include "smaps.c" %}
#define MADV_COLLAPSE 25 /* Linux 6.1 */

static long stamp; /* of the content */

static void setup(void)
{
	map(SIZE);
}

/* Populate by base pages, with a word in each. */
static void prepare(void)
{
	if (madvise(base, SIZE, {{ zap }}) || madvise(base, SIZE, MADV_NOHUGEPAGE))
		err(1, "madvise");
	populate(SIZE);
	if (madvise(base, SIZE, MADV_HUGEPAGE))
		err(1, "MADV_HUGEPAGE");
	stamp = random();
	for (long at = 0; at < SIZE; at += BASE_PAGE)
		*(long *)(base + at) = stamp + at;
	if (smaps_bytes("{{ huge_field }}"))
		errx(1, "the range had huge pages before");
}

static void work(long start, long end)
{
	for (int k = 0; madvise(base + start, end - start, MADV_COLLAPSE); k++)
		if (errno != EAGAIN || k == 100)
			err(1, "MADV_COLLAPSE");
}

static void check(void)
{
	if (smaps_bytes("{{ huge_field }}") != SIZE)
		errx(1, "not all of it is in huge pages");
	for (long at = 0; at < SIZE; at += BASE_PAGE)
		if (*(long *)(base + at) != stamp + at)
			errx(1, "the page at %ld has lost its content", at);
}

