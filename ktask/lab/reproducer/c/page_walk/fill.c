{# An address space that a walk is to count; some pages are left out: a count proves a walk. #}
{% if pages == "file" %}
{% include "page_walk/file.c" %}
{% else %}
{% include "map.c" %}
{% if pages == "zero" %}
	madvise(mem, SIZE, MADV_HUGEPAGE); /* faster; split below */
	DO(madvise(mem, SIZE, MADV_POPULATE_READ));
{% else %}
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
{% endif %}
	for (long at = 0; at < SIZE; at += 512 * PAGE) { /* a hole per table */
		DO(madvise(mem + at, PAGE, MADV_DONTNEED));
		present--;
	}
	madvise(mem, SIZE, MADV_NOHUGEPAGE); /* or khugepaged may fill it */
{% endif %}
