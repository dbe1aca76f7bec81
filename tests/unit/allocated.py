"""How much memory the process has allocated, counted by the C library: FFmpeg's and torch's too, whatever the system's
own count of pages does meanwhile."""

import ctypes
import gc


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


try:
    _mallinfo2 = ctypes.CDLL(None).mallinfo2
    _mallinfo2.restype = _Mallinfo2
except (AttributeError, OSError, TypeError):  # Windows, macOS, and a glibc before 2.33
    _mallinfo2 = None

CAN_COUNT = _mallinfo2 is not None


def allocated_bytes() -> int:
    """What is allocated and not freed, after a collection; needs CAN_COUNT."""
    gc.collect()
    now = _mallinfo2()
    return now.uordblks + now.hblkhd  # small pieces and large ones
