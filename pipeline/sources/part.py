"""A media file, or the part of it between two times, as pictures and sound of it are read."""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass
from fractions import Fraction

import av


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a file between two times.

    Args:
        file: its path, or its bytes.
        start, end: seconds, on the file's own clock; a start of 0 is where the file begins, whatever its clock says
            then, and the end may be infinite.
    """

    file: str | os.PathLike | io.BytesIO
    start: float = 0.0
    end: float = math.inf

    def open(self) -> av.container.InputContainer:
        """The file, anew each time: pictures and sound are read side by side, each at a place of its own."""
        file = io.BytesIO(self.file.getvalue()) if isinstance(self.file, io.BytesIO) else os.fspath(self.file)
        return av.open(file, metadata_errors="replace")

    def seek(self, container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream) -> None:
        """Go to where decoding must begin for the stream to be whole from `start` on."""
        if self.start:
            container.seek(int(self.start / stream.time_base), stream=stream)

    def is_before(self, pts: int, time_base: Fraction) -> bool:
        """Whether what begins at `pts` begins before the part; in ticks, rounded down, as ComfyUI cuts."""
        return self.start > 0 and pts < int(self.start / time_base)

    def is_after(self, pts: int, time_base: Fraction) -> bool:
        """Whether what begins at `pts` begins when the part is over."""
        return not math.isinf(self.end) and pts >= int(self.end / time_base)
