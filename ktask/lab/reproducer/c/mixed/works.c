{# One operation of a work, and the mapping that it begins with. #}
{% macro one(work, at, bytes) %}
{% if work == "populate" %}
		DO(madvise({{ at }}, {{ bytes }},
			   MADV_POPULATE_WRITE));
{% elif work == "zap" %}
		DO(madvise({{ at }}, {{ bytes }}, MADV_DONTNEED));
{% elif work == "map" %}
		DO(mmap({{ at }}, MIXED, PROT_READ | PROT_WRITE, MAP_PRIVATE |
			MAP_ANON | MAP_FIXED_NOREPLACE, -1, 0));
		*({{ at }}) = 1;
		DO(munmap({{ at }}, MIXED));
{% elif work == "protect" %}
		DO(mprotect({{ at }}, MIXED, PROT_READ));
		DO(mprotect({{ at }}, MIXED, PROT_READ | PROT_WRITE));
{% else %}
		int status, pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

		if (!pid)
			_exit(0);
		DO(waitpid(pid, &status, 0));
		CHECK(status == 0);
{% endif %}
{% endmacro %}
{% macro begin(work, at, bytes) %}
	DO(munmap({{ at }}, {{ bytes }}));
{% if work != "map" %}
	DO(mmap({{ at }}, {{ bytes }}, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		MAP_ANON | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0));
	madvise({{ at }}, {{ bytes }}, {{ "MADV_HUGEPAGE" if page_kind == "THP" else "MADV_NOHUGEPAGE" }});
{% if work != "populate" %}
	DO(madvise({{ at }}, {{ bytes }}, MADV_POPULATE_WRITE));
{% endif %}
{% endif %}
{% endmacro %}
