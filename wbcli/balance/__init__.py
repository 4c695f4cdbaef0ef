"""Weight balancing itself: ops, their torch twins, compiled kernels, SGD, thresholds."""
