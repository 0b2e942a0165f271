#include <sys/mman.h>
{% include "region.c" %}
static long expected, found; /* present pages */

{% if pages == "file" %}
#include <fcntl.h>
#include <unistd.h>
/* Map a piece of a memory file over and over: page tables of any size that need little memory. */
static void fill_space(void)
{
	long bytes = (ALIAS + BASE_PAGE + ALIGN - 1) & -ALIGN;
	long hole = BASE_PAGE * (1 + random() % (ALIAS / BASE_PAGE)); /* a page of it is left out */
	int fd = memfd_create("alias", MFD_CLOEXEC), flags = MAP_SHARED | MAP_FIXED;
	char *held = mmap(NULL, bytes + ALIGN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	map(SIZE);
	held = (char *)(((uintptr_t)held + ALIGN - 1) & -ALIGN);
	if (ftruncate(fd, bytes) || mmap(held, bytes, PROT_READ | PROT_WRITE, flags, fd, 0) != held)
		err(1, "memfd");
	if (madvise(held, bytes, MADV_POPULATE_WRITE))
		err(1, "MADV_POPULATE_WRITE");
	for (long at = 0; at < bytes; at += ALIGN) /* huge folios are faster to map; there may be none */
		if (hole < at || at + ALIGN <= hole)
			madvise(held + at, ALIGN, 25 /* MADV_COLLAPSE */);
	mlock(held, bytes); /* so that idle memory is not put away, if that is allowed */
	for (long at = 0; at < SIZE; at += ALIAS) {
		long length = SIZE - at < ALIAS ? SIZE - at : ALIAS;

		if (mmap(base + at, length, PROT_READ | PROT_WRITE, flags, fd, BASE_PAGE) != base + at)
			err(1, "mmap");
		expected += length / BASE_PAGE - (hole < length + BASE_PAGE);
	}
	if (madvise(base, SIZE, MADV_POPULATE_READ))
		err(1, "MADV_POPULATE_READ");
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, hole, BASE_PAGE))
		err(1, "fallocate");
}
{% else %}
/* {{ "The page of zeros everywhere" if pages == "zero" else "A page of its own everywhere" }}, but for one entry of each table: a count proves a walk. */
static void fill_space(void)
{
	map(SIZE);
{% if pages == "zero" %}
	madvise(base, SIZE, MADV_HUGEPAGE); /* huge pages of zeros, split below: that is faster */
	if (madvise(base, SIZE, MADV_POPULATE_READ))
		err(1, "MADV_POPULATE_READ");
{% else %}
	if (madvise(base, SIZE, MADV_POPULATE_WRITE))
		err(1, "MADV_POPULATE_WRITE");
{% endif %}
	for (long at = 0; at < SIZE; at += 512 * BASE_PAGE) {
		long pages = SIZE - at < 512 * BASE_PAGE ? (SIZE - at) / BASE_PAGE : 512;
		char *left_out = base + at + random() % pages * BASE_PAGE;

		if (pages > 1 && madvise(left_out, BASE_PAGE, MADV_DONTNEED))
			err(1, "MADV_DONTNEED");
		expected += pages - (pages > 1);
	}
{% if pages == "zero" %}
	madvise(base, SIZE, MADV_NOHUGEPAGE); /* or khugepaged would fill it */
{% endif %}
}
{% endif %}

static void prepare(void)
{
	found = 0;
}

static void check(void)
{
	if (found != expected)
		errx(1, "the walk found %ld present pages, %ld are there", found, expected);
}

