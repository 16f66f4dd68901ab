"""How the C library treats memory that is given back."""

import ctypes
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
