"""Pictures in a container, encoded frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import av

from ..pixels import SUBSAMPLING
from .containers import Clock
from .encoders.base import encoder_threads
from .frames import colour_tags

if TYPE_CHECKING:
    from .formats import Choice

# More than any encoder decodes ahead of what it shows.
MOST_REORDERED_FRAMES = 1000


class PictureTrack:
    """A stream of pictures in an open container.

    Args:
        container: PyAV output container; the stream is added to it.
        choice: what to encode them with.
        clock: when they are shown.
        height, width: of the frames, before odd sizes are grown.
        frames: how many come.
        repeats: whether it will be played again, for which the packets are kept.
        cut: whether the last turn may end before its last frame: none may need a later one.
    Attributes:
        written: frames taken.
        held_frames: frames the encoder has taken and not given out yet.
    """

    def __init__(
        self,
        container: av.container.OutputContainer,
        choice: Choice,
        clock: Clock,
        height: int,
        width: int,
        frames: int,
        repeats: bool = False,
        cut: bool = False,
    ):
        self.written = self.held_frames = 0
        self._container = container
        self._clock = clock
        self._encoder = encoder = choice.format.encoder
        self._repeats = repeats
        self._packets: list[av.Packet] = []
        pixels = choice.pixel_format
        height, width = pixels.stored_size(height, width)
        threads = encoder.threads(height, encoder_threads())
        # Said of frames, since editors may ask where nothing is said.
        options = encoder.options(choice, height, width, frames, threads) | {"field_order": "progressive"}
        if cut:
            # No frame is made of a later one. A key frame where it is cut would do as well, but x265 4.2 crashed now
            # and then where it was told to make one (once in a few hundred clips of 48x96, "medium", 2026-11-26).
            options["bf"] = "0"
        if any(SUBSAMPLING.get(pixels.layout, ())):
            # H.264 and H.265 mean this where nothing is said; AV1, VP9 and FFV1 do not.
            options |= {"chroma_sample_location": "left"}
        self._stream = stream = cast(av.VideoStream, container.add_stream(encoder.name, rate=clock.fps))
        stream.height, stream.width = height, width
        stream.pix_fmt = encoder.takes(pixels)
        stream.options = {**options}
        if encoder.takes_threads:
            stream.codec_context.thread_count, stream.codec_context.thread_type = threads, encoder.thread_type
        stream.codec_context.time_base = clock.tick
        for tag, value in colour_tags(pixels).items():
            setattr(stream.codec_context, tag, value)
        codec = stream.codec_context.codec.canonical_name
        if codec in choice.format.container.codec_tags:
            stream.codec_context.codec_tag = choice.format.container.codec_tags[codec]
        if choice.stated.pixel_aspect != 1:
            stream.codec_context.sample_aspect_ratio = choice.stated.pixel_aspect
        self._prepare = encoder.prepare(choice, height, width, clock.tick)

    def __str__(self) -> str:
        """What an encoder that cannot be opened was opened for."""
        return (
            f"{self._encoder.name} cannot be opened for {self._stream.width}x{self._stream.height}, "
            f"{self._stream.pix_fmt}, at {float(self._clock.fps):g} frames a second"
        )

    @property
    def is_open(self) -> bool:
        """Whether the encoder could be opened."""
        return self._stream.codec_context.is_open

    def write(self, frame: av.VideoFrame) -> None:
        """Encode the next frame, in the pixels of the choice."""
        frame.time_base, frame.pts = self._clock.tick, self._clock.ticks(self.written)
        self.written += 1
        self.held_frames += 1
        for ready in self._prepare(frame):
            self._mux(self._stream.encode(ready))

    def close(self) -> None:
        """Encode what is left and flush."""
        for ready in self._prepare(None):
            self._mux(self._stream.encode(ready))
        self._mux(self._stream.encode(None))

    def stop(self) -> None:
        """Flush what the encoder holds, as it is: the track ends here."""
        self._container.mux(self._stream.encode(None))

    def repeat(self, total: int) -> Iterator[int]:
        """Play it again until there are so many frames: the same packets later. They are all that is held for it.

        Args:
            total: a multiple of the frames written where it is not to be cut.
        Yields the number of frames there are after each turn.
        """
        packets, self._packets = self._packets, []
        at = [(cast(int, packet.pts), cast(int, packet.dts)) for packet in packets]
        for turn in range(1, -(-total // self.written)):
            for packet, (pts, dts) in zip(packets, at):
                if turn * self.written + round(pts * packet.time_base * self._clock.fps) >= total:
                    continue
                # On the clock that the muxer gave it; from the start each time, so that rounding does not add up.
                later = round(self._clock.seconds(turn * self.written) / packet.time_base)
                packet.pts, packet.dts = pts + later, dts + later
                self._container.mux(packet)
            yield min(total, (turn + 1) * self.written)

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            self.held_frames -= 1
            # Every frame lasts as long as the next; the muxer would guess for the last.
            if not packet.duration:
                packet.duration = self._clock.ticks(1)
            self._encoder.repair(packet, self._clock.ticks(MOST_REORDERED_FRAMES))
            if self._repeats:
                self._packets.append(packet)
        self._container.mux(packets)
