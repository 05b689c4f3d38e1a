"""What it costs on a device, and to make: every figure of the documentation, as `python -m benchmarks.NAME`."""
