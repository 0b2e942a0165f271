{% include "files.c" %}
{% include "truncate/fill.c" %}
static void setup(void)
{
	create_files();
}

static void work(long start, long end)
{
	for (long k = start; k < end; k++)
		if (ftruncate(fds[k], 0))
			err(1, "ftruncate");
}

