{# What all programs are made of; a method says what comes at each block. #}
#include <err.h>
#include <omp.h>
#include <stdio.h>
#include <sys/param.h>
{% block top %}{% endblock %}

static double run(int threads, long len)
{
	double seconds;
{% block variables %}{% endblock %}
{% if guided %}
	long ends[CHUNKS + 1] = { 0 };
	int n = 0;

	for (; ends[n] < {{ total }}; n++) { /* chunks shrink with what is left */
		long left = {{ total }} - ends[n], all = threads * UNIT;

		ends[n + 1] = MAX(len, (left + all - 1) / all * UNIT);
		ends[n + 1] = MIN(ends[n] + ends[n + 1], {{ total }});
	}
{% endif %}

{% block prepare %}{% endblock %}
	omp_pause_resource_all(omp_pause_hard); /* no helper spins */
#pragma omp parallel num_threads(threads)
	omp_get_wtime(); /* all threads are awake when the clock starts */
	seconds = -omp_get_wtime();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
{% if guided %}
	for (int i = 0; i < n; i++) {
		long at = ends[i];

{{ self.work() }}
	}
{% else %}
	for (long at = 0; at < {{ total }}; at += len)
{% block work %}{% endblock %}
{% endif %}
	seconds += omp_get_wtime();

{% block check %}{% endblock %}
	return seconds;
}

int main(void)
{
	double wall[2][ROUNDS]; /* by one and all threads, in order */

	CHECK(omp_get_num_places() >= {{ most_threads }} && "OMP_PLACES as above");
{% block setup %}{% endblock %}
	for (int k = -4; k < 2 * ROUNDS; k++) { /* warm up twice */
		int many = (k ^ k / 2) & 1, at = k / 2;
		double seconds = many ? run(THREADS, CHUNK) : run(1, {{ total }});

		for (; at > 0 && wall[many][at - 1] > seconds; at--)
			wall[many][at] = wall[many][at - 1];
		wall[many][MAX(at, 0)] = seconds;
	}
	double one = wall[0][ROUNDS / 2], all = wall[1][ROUNDS / 2];
	printf("1 thread   %9.3f ms  %8.2f {{ rate_name }}/s\n", 1e3 * one, WORK / one);
	printf("{{ threads_text }}  %9.3f ms  %8.2f {{ rate_name }}/s\n", 1e3 * all, WORK / all);
	printf("speedup    %9.2f  verified, median of %d\n", one / all, ROUNDS);
	return 0;
}
