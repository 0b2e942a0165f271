#include <stdint.h>
#include <sys/mman.h>
static char *base;

/* Map memory that starts at a multiple of ALIGN, at the same place each time. */
static void map(long bytes)
{
	const int room = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	const int flags = MAP_FIXED | MAP_ANONYMOUS | {{ map_flags }};

	if (!base)
		base = mmap(NULL, bytes + ALIGN, PROT_NONE, room, -1, 0);
	base = (char *)(((uintptr_t)base + ALIGN - 1) & -ALIGN);
	if (mmap(base, bytes, {{ protection }}, flags, -1, 0) != base)
		err(1, "mmap");
{% if page_kind == "THP" %}
	if (madvise(base, bytes, MADV_HUGEPAGE))
		err(1, "MADV_HUGEPAGE");
{% elif page_kind == "4KiB" %}
	madvise(base, bytes, MADV_NOHUGEPAGE); /* a kernel without huge pages refuses */
{% endif %}
}

