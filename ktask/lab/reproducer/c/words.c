/* A word in each base page, at an offset that changes, tells whether the page was zeroed. */
static long offset;

static void leave_words(void)
{
	offset = random() % (BASE_PAGE / 8) * 8;
	for (long at = offset; at < SIZE; at += BASE_PAGE)
		*(long *)(base + at) = 0xdeadbeef;
}

static void check_words(void)
{
	for (long at = offset; at < SIZE; at += BASE_PAGE)
		if (*(volatile long *)(base + at))
			errx(1, "the page at %ld still holds data", at);
}

