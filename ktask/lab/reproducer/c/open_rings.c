	for (int k = 0; k < RINGS; k++)
		DO(rings[k] = syscall(SYS_io_uring_setup, 1, &params[k]));
