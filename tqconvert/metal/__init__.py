"""Metal kernels: what the host code asks of them, how they run on a CPU and on a Mac."""
