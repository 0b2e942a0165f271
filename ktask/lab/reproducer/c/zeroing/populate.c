#include <sys/mman.h>
{% include "region.c" %}
{% include "present.c" %}
{% include "words.c" %}
{% if page_kind == "THP" %}{% include "smaps.c" %}{% endif %}
static void setup(void)
{
	map(SIZE);
}

/* Give the pages back by as many threads as will populate: freed pages stay in the lists of a CPU. */
static void prepare(void)
{
	leave_words();
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
	for (long at = 0; at < SIZE; at += CHUNK)
		if (madvise(base + at, SIZE - at < CHUNK ? SIZE - at : CHUNK, {{ zap }}))
			err(1, "{{ zap }}");
}

static void work(long start, long end)
{
	if (madvise(base + start, end - start, MADV_POPULATE_WRITE)) /* Linux 5.14 */
		err(1, "MADV_POPULATE_WRITE");
}

static void check(void)
{
	if (bytes_present() != SIZE)
		errx(1, "pages are missing");
	check_words();
{% if page_kind == "THP" %}
	if (smaps_bytes("{{ huge_field }}") != SIZE)
		errx(1, "not all of it is in huge pages");
{% endif %}
}

