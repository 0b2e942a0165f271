{% extends "skeleton.c" %}
{% block top %}
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
{% include "base.c" %}
static long entry[SIZE / {{ base_page }}]; /* of pagemap */
static int uffd, pagemap;
static struct uffdio_api api = { UFFD_API, UFFD_FEATURE_PAGEFAULT_FLAG_WP |
				 UFFD_FEATURE_WP_HUGETLBFS_SHMEM, 0 };
static struct uffdio_register range = { { 1L << 37, SIZE }, 2 /* WP */, 0 };

static void write_protect(long at, long size, int on)
{
	struct uffdio_writeprotect arg = { { (long)mem + at, size }, on };

	while (ioctl(uffd, UFFDIO_WRITEPROTECT, &arg))
		CHECK(errno == EAGAIN);
}
{% endblock %}
{% block setup %}
{% include "map.c" %}
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
	DO(pagemap = open("/proc/self/pagemap", O_RDONLY));
	DO(uffd = syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY));
	DO(ioctl(uffd, UFFDIO_API, &api));
	DO(ioctl(uffd, UFFDIO_REGISTER, &range)); /* Linux 5.19 */
{% endblock %}
{% block prepare %}
	write_protect(0, SIZE, 0);
{% endblock %}
{% block work %}
		write_protect(at, {{ size }}, 1);
{% endblock %}
{% block check %}
	DO(pread(pagemap, entry, sizeof(entry), (long)mem / {{ base_page }} * 8));
	for (long k = 0; k < SIZE / {{ base_page }}; k++)
		CHECK(entry[k] >> 57 & 1); /* write-protected by userfaultfd */
{% endblock %}
