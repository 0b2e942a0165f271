#include <sys/mman.h>
static void populate(long start, long end)
{
	if (madvise(base + start, end - start, MADV_POPULATE_WRITE)) /* Linux 5.14 */
		err(1, "MADV_POPULATE_WRITE");
}

{% if fill == "one" %}
/* One thread, the caller, fills the range: so its CPU has the page tables in its caches. */
static void fill(void)
{
	populate(0, SIZE);
{% elif fill == "each" %}
/* Every CPU fills chunks of the range. */
static void fill(void)
{
#pragma omp parallel for schedule(dynamic, 1) num_threads(FILLERS)
	for (long at = 0; at < SIZE; at += FILL_CHUNK)
		populate(at, SIZE - at < FILL_CHUNK ? SIZE : at + FILL_CHUNK);
{% else %}
/* A thread on another CPU than the caller's fills the range. */
static void fill(void)
{
#pragma omp parallel num_threads(FILLERS)
	if (omp_get_thread_num() == 1)
		populate(0, SIZE);
{% endif %}
}

