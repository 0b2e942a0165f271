#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
static int fds[FILES];

static void create_files(void)
{
	for (int k = 0; k < FILES; k++) {
		fds[k] = memfd_create("case", {{ memfd_flags }});
		if (fds[k] < 0)
			err(1, "memfd_create");
	}
}

/* Bytes in pages of all files. */
static long allocated(void)
{
	long bytes = 0;
	struct stat stat;

	for (int k = 0; k < FILES; k++) {
		if (fstat(fds[k], &stat))
			err(1, "fstat");
		bytes += 512 * stat.st_blocks;
	}
	return bytes;
}

