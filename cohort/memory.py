"""What a program does with memory that it could give back."""

import ctypes
import gc
import platform


def keep_freed_memory() -> None:
    """Let glibc keep the blocks it gets back instead of returning each to the kernel, and be asked again for it.

    Volumes and the maps of a 3D network are large; on a CPU, clearing fresh pages for them takes half a training step
    and a tenth of reading a scan. Other C libraries have no such switch and are left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def keep_imported_modules() -> None:
    """Leave what a program has imported out of every later search for garbage, and standing when the program ends.

    Python would look through half a million objects and take them apart first, for 3 s on a slow CPU
    (benchmarks/README.md).
    """
    gc.freeze()
