{# Statements that map the memory in its place; they fail if anything is there. #}
#include <sys/mman.h>
	DO(mmap(mem, {{ bytes }}, {{ protection }}, {{ sharing }} | MAP_ANON |
{% if log2 %}
		MAP_HUGETLB | {{ log2 }} << MAP_HUGE_SHIFT |
		MAP_FIXED_NOREPLACE, -1, 0));
{% else %}
		MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0));
{% endif %}
{% if page_kind == "THP" %}
	DO(madvise(mem, {{ bytes }}, MADV_HUGEPAGE));
{% elif page_kind == "4KiB" %}
	madvise(mem, {{ bytes }}, MADV_NOHUGEPAGE); /* fails without THP, fine */
{% endif %}
