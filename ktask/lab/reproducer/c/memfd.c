	for (int k = 0; k < FILES; k++)
		DO(fds[k] = memfd_create("case", MFD_CLOEXEC{% if log2 %} |
			MFD_HUGETLB | {{ log2 }} << MAP_HUGE_SHIFT{% endif %}));
