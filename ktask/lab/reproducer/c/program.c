/*
{% for line in head %}
 * {{ line }}
{% endfor %}
 *
 *	cc -O2 -fopenmp case.c -o case
 *	OMP_PLACES='{{ places }}' ./case	# a CPU for each thread
 *
 * In ktask: {{ command }}
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

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values)
{
	qsort(values, ROUNDS, sizeof(*values), ascending);
	return (values[(ROUNDS - 1) / 2] + values[ROUNDS / 2]) / 2;
}

int main(void)
{
	double walls[2][WARMUPS + ROUNDS], serial, parallel, operations = {{ operations }}; /* {{ rate_name }} */

	if (omp_get_num_places() < THREADS)
		errx(1, "OMP_PLACES has to name %d CPUs", THREADS);
	setup();
	for (int k = 0; k < 2 * (WARMUPS + ROUNDS); k++) {
		int many = (k ^ k / 2) & 1; /* serial, parallel, parallel, serial, ... */

		walls[many][k / 2] = many ? run(THREADS, CHUNK) : run(1, {{ total }});
	}
	serial = median(walls[0] + WARMUPS);
	parallel = median(walls[1] + WARMUPS);
	printf("1 thread   %9.3f ms  %8.2f {{ rate_name }}/s\n", 1e3 * serial, operations / serial);
	printf("%d threads  %9.3f ms  %8.2f {{ rate_name }}/s\n", THREADS, 1e3 * parallel, operations / parallel);
	printf("speedup    %9.2f     verified, medians of %d rounds\n", serial / parallel, ROUNDS);
	return 0;
}
