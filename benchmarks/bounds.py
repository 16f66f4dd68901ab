"""The limits of this machine, measured: matrix products, memory, gunzip."""

import gzip
import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType

import numpy as np
import torch

from machine.cores import available_cores
from screening.fast import DTYPES, has_native_bfloat16

MACS = 17.8e9  # multiply-adds of one pass of the network at 128^3, as `python -m architectures` counts them


def bound(path: str, edge: int = 2048):
    """One turn measures everything once: operations/s in each precision, bytes/s copied, seconds to gunzip one scan."""
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
        answer = {f"{name} op/s": product_rate(DTYPES[name], edge) for name in precisions()}
        answer["int8 op/s"] = integer_rate(edge)
        answer["copy bytes/s"] = 2 * block.nbytes / timed(lambda: np.copyto(other, block))
        answer["gzip s"] = timed(lambda: unzip(gzip, compressed))
        answer["isal s"] = timed(lambda: unzip(igzip, compressed)) if igzip else None
        with ThreadPoolExecutor(available_cores()) as pool:
            work = [compressed] * 2 * available_cores()
            answer["all cores s"] = timed(lambda: list(pool.map(partial(unzip, igzip or gzip), work))) / len(work)
        return answer

    return turn


def unzip(library: ModuleType, compressed: bytes) -> None:
    """Decompress, a block at a time into the same memory: fresh pages for the whole scan would cost time too."""
    block = bytearray(1 << 20)
    with library.open(io.BytesIO(compressed)) as stream:
        while stream.readinto(block):
            pass


def precisions() -> list[str]:
    """The precisions that the processor has instructions for, fastest first. It emulates all others, slowly."""
    return ["bfloat16", "float32"] if has_native_bfloat16(torch.device("cpu")) else ["float32"]


@torch.inference_mode()
def product_rate(dtype: torch.dtype, edge: int) -> float:
    """FLOP/s of a matrix product, the faster of two ways: BLAS, or oneDNN as a 1x1 convolution."""
    matrix = torch.randn(edge, edge).to(dtype)
    image = matrix.T.reshape(1, edge, -1, 16).contiguous(memory_format=torch.channels_last)
    kernel = matrix.view(edge, edge, 1, 1).contiguous(memory_format=torch.channels_last)
    ways = [lambda: matrix @ matrix, lambda: torch.nn.functional.conv2d(image, kernel)]
    return 2 * edge**3 / min(timed(way) for way in ways * 5)


def integer_rate(edge: int) -> float:
    """Operations/s of a matrix product of 8-bit integers."""
    matrix = torch.randint(-128, 128, (edge, edge), dtype=torch.int8)
    return 2 * edge**3 / min(timed(lambda: torch._int_mm(matrix, matrix)) for _ in range(5))


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work()` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def pass_seconds(rate: float, image_size: int, passes: float) -> float:
    """Seconds for a number of network passes if all of the network ran at the rate of a matrix product.

    Args:
        rate: FLOP/s of the matrix product.
        image_size: edge of the input cube, voxels.
        passes: 2 for a TTA pair, 3 for a training step (the backward pass counts as two).
    """
    return passes * 2 * MACS * (image_size / 128) ** 3 / rate
