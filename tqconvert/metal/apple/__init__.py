"""Kernels on a Mac: Apple's compiler, and launch records on its GPU. Written without a Mac, and not run on one."""
