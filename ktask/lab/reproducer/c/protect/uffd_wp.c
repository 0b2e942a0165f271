#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
{% include "region.c" %}
{% include "populate.c" %}
static int uffd;

static void setup(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
	};
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_WP };

	map(SIZE);
	populate(SIZE);
	range.range = (struct uffdio_range){ .start = (uintptr_t)base, .len = SIZE };
	uffd = syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY | O_CLOEXEC);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &range))
		err(1, "userfaultfd that can write-protect (Linux 5.19)");
}

static void write_protect(long start, long end, int mode)
{
	struct uffdio_writeprotect arg = {
		.range = { .start = (uintptr_t)base + start, .len = end - start },
		.mode = mode,
	};

	while (ioctl(uffd, UFFDIO_WRITEPROTECT, &arg))
		if (errno != EAGAIN)
			err(1, "UFFDIO_WRITEPROTECT");
}

static void prepare(void)
{
	write_protect(0, SIZE, 0);
}

static void work(long start, long end)
{
	write_protect(start, end, UFFDIO_WRITEPROTECT_MODE_WP);
}

/* Bit 57 of a pagemap entry: write-protected by userfaultfd. */
static void check(void)
{
	static uint64_t entry[SIZE / BASE_PAGE];
	FILE *pagemap = fopen("/proc/self/pagemap", "r");

	if (!pagemap || fseeko(pagemap, (uintptr_t)base / BASE_PAGE * 8, SEEK_SET))
		err(1, "pagemap");
	if (fread(entry, 8, SIZE / BASE_PAGE, pagemap) != SIZE / BASE_PAGE)
		err(1, "pagemap");
	fclose(pagemap);
	for (long k = 0; k < SIZE / BASE_PAGE; k++)
		if (!(entry[k] >> 57 & 1))
			errx(1, "page %ld can still be written to", k);
}

