"""The header of a safetensors file: which tensors are in it, without reading them, and without torch."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

from .messages import HEADER_BYTES

# What a dtype is called there.
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def header_of(path: Path) -> dict:
    """By the tensors' names, as {"dtype", "shape", "data_offsets"}; none of it is checked.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no safetensors file.
    """
    with open(path, "rb") as file:
        start, size = file.read(8), os.fstat(file.fileno()).st_size
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(HEADER_BYTES, size - 8):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        try:
            header = json.loads(file.read(length))
        except RecursionError as error:
            raise ValueError("a header that is nested too deep") from error
    if not isinstance(header, dict):
        raise ValueError("a header that is no object")
    return header
