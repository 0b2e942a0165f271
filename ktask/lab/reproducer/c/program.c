/*
{% for line in head %}
 * {{ line }}
{% endfor %}
 *
 *	cc -O2 -fopenmp case.c -o case
 *	OMP_PLACES='{{ places }}' ./case	# a CPU for each thread
 *
 * The same case in ktask:
 *
{% for line in command %}
 *	{{ line }}
{% endfor %}
 */
#define _GNU_SOURCE
{% for name in headers %}
#include <{{ name }}>
{% endfor %}

{% for name, value in constants.items() %}
#define {{ name }} {{ value }}
{% endfor %}

static int threads; /* that do the work next: 1 or THREADS */

{{ body }}

/* Prepare, work in chunks, check; return the seconds of the work. */
static double run(int count, long chunk)
{
	double seconds;

	threads = count;
	prepare();
	for (seconds = omp_get_wtime(); omp_get_wtime() < seconds + 0.02;)
		; /* helpers spin for some milliseconds after a parallel region; now they sleep */
#pragma omp parallel num_threads(threads)
	sched_yield(); /* those that are needed are awake when the clock starts */
	seconds = -omp_get_wtime();
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
	for (long at = 0; at < {{ total }}; at += chunk)
		work(at, {{ total }} - at < chunk ? {{ total }} : at + chunk);
	seconds += omp_get_wtime();
	check();
	return seconds;
}

static int by_time(const void *a, const void *b)
{
	return *(const double *)a < *(const double *)b ? -1 : 1;
}

int main(void)
{
	const double operations = {{ operations }}; /* {{ rate_name }} */
	double walls[2][WARMUPS + ROUNDS], serial, parallel;

	if (omp_get_num_places() < THREADS)
		errx(1, "OMP_PLACES has to name %d CPUs", THREADS);
	setup();
	for (int k = 0; k < 2 * (WARMUPS + ROUNDS); k++) {
		int many = (k ^ k / 2) & 1; /* serial, parallel, parallel, serial, ... */

		walls[many][k / 2] = many ? run(THREADS, CHUNK) : run(1, {{ total }});
	}
	qsort(walls[0] + WARMUPS, ROUNDS, sizeof(double), by_time);
	qsort(walls[1] + WARMUPS, ROUNDS, sizeof(double), by_time);
	serial = walls[0][WARMUPS + ROUNDS / 2];
	parallel = walls[1][WARMUPS + ROUNDS / 2];
	printf("1 thread   %9.3f ms  %8.2f {{ rate_name }}/s\n", 1e3 * serial, operations / serial);
	printf("{{ threads_text }}  %9.3f ms  %8.2f {{ rate_name }}/s\n", 1e3 * parallel, operations / parallel);
	printf("speedup    %9.2f     verified, medians of %d rounds\n", serial / parallel, ROUNDS);
	return 0;
}
