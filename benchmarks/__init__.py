"""Speed and memory compared with other libraries and with the limits of the machine: `python -m benchmarks`."""
