"""What the machine can do at best, measured on the spot: matrix products, memory, gunzip."""

import gzip
import time

import numpy as np
import torch

from cohort.cores import available_cores

MACS = 17.8e9  # multiply-adds of one pass of the network at 128^3 (method.md section 3)


def bound(path: str, edge: int = 2048):
    """A turn measures all of it once: FLOP/s in float32 and bfloat16, bytes/s copied, seconds to gunzip a scan."""
    torch.set_num_threads(available_cores())
    with open(path, "rb") as file:
        compressed = file.read()
    try:
        from isal import igzip
    except ImportError:
        igzip = None
    block = np.ones(32 << 20, np.float64)  # 256 MB, beyond any cache
    other = np.empty_like(block)
    other[:] = block

    def turn(_):
        answer = {}
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            matrix = torch.randn(edge, edge).to(dtype)
            matrix @ matrix
            seconds = min(timed(lambda matrix=matrix: matrix @ matrix) for _ in range(4))
            answer[f"{name} FLOP/s"] = 2 * edge**3 / seconds
        answer["copy bytes/s"] = 2 * block.nbytes / timed(lambda: np.copyto(other, block))
        answer["gzip s"] = timed(lambda: gzip.decompress(compressed))
        answer["isal s"] = timed(lambda: igzip.decompress(compressed)) if igzip else None
        return answer

    return turn


def timed(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def pass_seconds(rate: float, image_size: int, passes: float) -> float:
    """Time of some passes of the network if all of it ran at the rate of a matrix product."""
    return passes * 2 * MACS * (image_size / 128) ** 3 / rate
