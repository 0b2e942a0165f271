#include <string.h>
#include <sys/types.h>
/* Bytes by a field of /proc/PID/status, such as "RssAnon:". */
static long status_bytes(pid_t pid, const char *field)
{
	char name[64], line[4096];
	long bytes = -1;
	FILE *file;

	snprintf(name, sizeof(name), "/proc/%d/status", pid);
	file = fopen(name, "r");
	if (!file)
		err(1, "%s", name);
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, field, strlen(field)))
			bytes = 1024 * atol(line + strlen(field));
	fclose(file);
	return bytes;
}

