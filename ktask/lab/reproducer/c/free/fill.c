{% include "populate.c" %}
{% include "present.c" %}
/* One thread, the caller, populates the range: its page tables lie in the caches of that CPU. */
static void fill(void)
{
	populate(SIZE);
	if (bytes_present() != SIZE)
		errx(1, "pages were missing before");
}

