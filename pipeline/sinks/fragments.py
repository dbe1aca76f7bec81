"""A file that could be played while it grew, made one whose index comes first."""

from __future__ import annotations

import errno
from pathlib import Path

import av


def defragment(
    source: Path, target: Path, muxer: str, options: dict[str, str], tags: dict[str, str], frames: int
) -> None:
    """Copy the packets, without encoding anew.

    Args:
        options, tags: for the muxer.
        frames: how many there have to be.
    Raises:
        OSError: there are less. FFmpeg does not tell when the last fragment could not be written.
    """
    with av.open(str(source)) as fragments, av.open(str(target), "w", format=muxer, options=options) as copy:
        copy.metadata.update(tags)
        # Opaque: it is copied, so there need be no encoder of its name.
        streams = {stream.index: copy.add_stream_from_template(stream, opaque=True) for stream in fragments.streams}
        for stream in fragments.streams:
            streams[stream.index].metadata.update(stream.metadata)
            streams[stream.index].codec_context.codec_tag = stream.codec_context.codec_tag
        whole = 0
        for packet in fragments.demux():
            if packet.dts is not None:
                whole += packet.stream.type == "video" and not packet.is_corrupt
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    if whole != frames:
        raise OSError(errno.EIO, f"{whole} of {frames} frames could be written. Is the disk full?")
