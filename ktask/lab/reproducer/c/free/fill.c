{# Who fills the memory decides whose caches have the page tables. #}
{% if fill == "one" %}
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE)); /* by one thread */
{% elif fill == "each" %}
#pragma omp parallel for schedule(dynamic) num_threads(FILLERS)
	for (long at = 0; at < SIZE; at += FILL_CHUNK)
		DO(madvise(mem + at, MIN(FILL_CHUNK, SIZE - at),
			   MADV_POPULATE_WRITE));
{% else %}
#pragma omp parallel num_threads(FILLERS)
	if (omp_get_thread_num() == 1) /* on another CPU than the caller's */
		DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
{% endif %}
