"""A part of a video: drop the frames before it, stop decoding after it."""

from __future__ import annotations

from collections.abc import Callable

import torch

Submit = Callable[[torch.Tensor], None]


class _PastTheEnd(Exception):
    """Ends a decoder's loop from inside; never leaves this file."""


def within(decode: Callable[[Submit], None], start: int, stop: int) -> Callable[[Submit], None]:
    """A decoder that delivers frames [start, stop) of what `decode` delivers.

    Frames before `start` are decoded, since later ones depend on them, and dropped. Decoding ends
    with the chunk that holds frame `stop - 1`.
    """

    def decode_window(submit: Submit) -> None:
        position = 0

        def submit_inside(frames_cthw: torch.Tensor) -> None:
            nonlocal position
            first, position = position, position + frames_cthw.shape[1]
            inside = frames_cthw[:, max(0, start - first) : max(0, stop - first)]
            if inside.shape[1] > 0:
                submit(inside)
            if position >= stop:
                raise _PastTheEnd

        try:
            decode(submit_inside)
        except _PastTheEnd:
            pass

    return decode_window
