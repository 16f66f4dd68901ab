"""How many CPU cores a process may use."""

import os


def available_cores() -> int:
    """Number of CPU cores this process may use. In a container or batch job this can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
