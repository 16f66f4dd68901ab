"""Speed and memory beside peers and beside what the machine can do: `python -m benchmarks`."""
