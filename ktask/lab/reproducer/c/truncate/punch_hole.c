{% include "files.c" %}
{% include "truncate/fill.c" %}
static void setup(void)
{
	create_files();
}

static void work(long start, long end)
{
	if (fallocate(fds[0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, end - start))
		err(1, "fallocate");
}

