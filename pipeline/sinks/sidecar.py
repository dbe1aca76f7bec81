"""The picture that stands beside a file in which the frontend finds no workflow, and holds it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import av

from .metadata import png_bytes
from .unfinished import Unfinished


class Sidecar:
    """The first frame as a PNG. It never costs the file beside which it stands: what fails is left out.

    Args:
        metadata: what it holds; none, and there is no picture.
    """

    def __init__(self, metadata: Mapping[str, object]):
        self._metadata = metadata
        self._png: bytes | None = None

    def take(self, frame: av.VideoFrame) -> None:
        """Make the picture."""
        if self._metadata:
            with _left_out():
                self._png = png_bytes(frame, self._metadata)

    def write(self, finished: Unfinished) -> None:
        """Put it beside the finished file, for both to be published."""
        if self._png is not None:
            with _left_out():
                finished.write_beside("png", self._png)

    def write_into(self, folder: Path) -> None:
        """Put it into a folder of pictures that is being written."""
        if self._png is not None:
            with _left_out():
                (folder / "workflow.png").write_bytes(self._png)


@contextlib.contextmanager
def _left_out() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        logging.warning("async-frame-pipeline: the picture with the workflow is left out: %s", error)
