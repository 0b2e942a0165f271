static void prepare(void)
{
	for (int k = 0; k < FILES; k++)
		if (ftruncate(fds[k], FILE_SIZE) || fallocate(fds[k], 0, 0, FILE_SIZE))
			err(1, "filling a file");
	if (allocated() != SIZE)
		errx(1, "pages were missing before");
}

static void check(void)
{
	if (allocated())
		errx(1, "pages are still there");
}

