"""What justifies the package: a suite of twenty tasks, the studies made on it, and task files of the paper's benchmarks."""
