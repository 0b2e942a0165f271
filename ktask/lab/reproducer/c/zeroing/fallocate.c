{% include "files.c" %}
static void setup(void)
{
	create_files();
}

/* Map a file, and leave a word in each base page, or see that it is gone. */
static void words(int fd, int are_left)
{
	char *at = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *word = at;

	if (at == MAP_FAILED)
		err(1, "mmap");
	for (; word < at + FILE_SIZE; word += BASE_PAGE)
		if (are_left)
			*(long *)word = 0xdeadbeef;
		else if (*(long *)word)
			errx(1, "the page at %ld still holds data", (long)(word - at));
	munmap(at, FILE_SIZE);
}

static void prepare(void)
{
	for (int k = 0; k < FILES; k++) {
		if (ftruncate(fds[k], FILE_SIZE))
			err(1, "ftruncate");
		words(fds[k], 1);
		if (ftruncate(fds[k], 0) || ftruncate(fds[k], FILE_SIZE))
			err(1, "ftruncate");
	}
}

{% if method == "fallocate" %}
static void work(long start, long end)
{
	if (fallocate(fds[0], 0, start, end - start))
		err(1, "fallocate");
}
{% else %}
static void work(long start, long end)
{
	for (long k = start; k < end; k++)
		if (fallocate(fds[k], 0, 0, FILE_SIZE))
			err(1, "fallocate");
}
{% endif %}

static void check(void)
{
	if (allocated() != SIZE)
		errx(1, "pages are missing");
	for (int k = 0; k < FILES; k++)
		words(fds[k], 0);
}

