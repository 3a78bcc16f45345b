"""Links imposed by the kernel: a network namespace a node, devices between them, queueing disciplines on these."""
