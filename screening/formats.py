"""The formats of converted files. Imports no library."""

import os
from importlib.util import find_spec

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
DTYPES = {".onnx": ("float32",), ".xml": ("float32", "bfloat16", "int8")}  # what `publishing.convert` writes
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}  # what a conversion needs


def is_converted_file(name: str) -> bool:
    """Whether a model name means a converted file and not a folder, which may have any name."""
    return name.endswith(tuple(SUFFIXES.values())) and not os.path.isdir(name)


def missing_packages(format: str) -> list[str]:
    """The packages that a conversion to this format needs and that are not installed."""
    return [name for name in PACKAGES[format] if find_spec(name) is None]
