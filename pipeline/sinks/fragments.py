"""A file that could be played while it grew, made one whose index comes first."""

from __future__ import annotations

import errno
from pathlib import Path

import av


def defragment(
    source: Path, target: Path, muxer: str, options: dict[str, str], tags: dict[str, str], frames: int
) -> None:
    """Copy the packets of pictures and sound, without encoding anew.

    Args:
        options, tags: for the muxer, which makes other tracks, as of a time code, from them again.
        frames: how many there have to be.
    Raises:
        OSError: there are less. FFmpeg does not tell when the last fragment could not be written.
    """
    with av.open(str(source)) as fragments, av.open(str(target), "w", format=muxer, options=options) as copy:
        copy.metadata.update(tags)
        taken = [*fragments.streams.video, *fragments.streams.audio]
        # Opaque: it is copied, so there need be no encoder of its name.
        streams = {stream.index: copy.add_stream_from_template(stream, opaque=True) for stream in taken}
        for stream in taken:
            streams[stream.index].metadata.update(stream.metadata)
            streams[stream.index].codec_context.codec_tag = stream.codec_context.codec_tag
        for stream in fragments.streams.video:
            # In the container: of AV1 and ProRes the decoder does not know the shape of pixels.
            if stream.sample_aspect_ratio:
                streams[stream.index].codec_context.sample_aspect_ratio = stream.sample_aspect_ratio
        whole = 0
        for packet in fragments.demux(taken):
            if packet.dts is not None:
                whole += packet.stream.type == "video" and not packet.is_corrupt
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    if whole != frames:
        raise OSError(errno.EIO, f"{whole} of {frames} frames could be written. Is the disk full?")
