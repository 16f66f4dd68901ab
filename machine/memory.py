"""Memory settings of a process: glibc's allocator and Python's garbage collector."""

import ctypes
import gc
import platform


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks for reuse instead of returning them to the kernel.

    Volumes and the feature maps of a 3D network are large. On a CPU, clearing fresh pages for them takes half of a
    training step and a tenth of the time to read a scan. Other C libraries have no such setting and are left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def keep_imported_modules() -> None:
    """Exclude all objects that exist now, mostly imported modules, from garbage collection (`gc.freeze`).

    Call it once, after the imports. Without it, Python scans half a million objects during the run and destroys them
    one by one at exit, which takes about 3 s on a slow CPU (see benchmarks/README.md).
    """
    gc.freeze()
