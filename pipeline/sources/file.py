"""A video file, or a part of it, decoded one picture at a time."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import cast

import av
import numpy as np
import torch

from ..stated import Stated
from . import exact_fps
from .file_sound import FileSound, sound_stream
from .part import Part
from .rgb import ToRGB, bits_of, chroma_place, converts_colours, has_alpha
from .stated import is_cover, quarter_turns, stated_in
from .times import LONGEST_SECONDS, Places, constant_rate, rate_without_pauses

# Ticks at which pictures begin, and how many they last.
TIMES = np.dtype([("pts", np.int64), ("duration", np.int64)])
NO_TIME = np.iinfo(np.int64).min
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class FileSource:
    """A file's first video stream as a `Source`, with its last sound stream.

    Pictures are those that begin in the part, and the one that is seen when it begins. Each is repeated at a constant
    rate until the next one begins, so that all keep their times; the file begins with its first picture or its first
    sound, whichever is earlier, and the first picture is seen from then on. A picture that the decoder refuses of a
    damaged file is replaced by the one before it. Interlaced pictures become whole ones.

    Args:
        file: its path, or its bytes.
        start, end: seconds; the end may be infinite.
    Raises:
        ValueError: no video in it, no frame in the part, or sound that no file can hold.
    """

    device = torch.device("cpu")
    chunk_frames = 1
    frames_thwc = None
    frames: int
    height: int
    width: int
    fps: Fraction
    stated: Stated

    def __init__(self, file: str | os.PathLike | io.BytesIO, start: float = 0.0, end: float = math.inf):
        self._part = Part(file, start, end)
        sound = FileSound(self._part)
        # The file's own, whose times count; what is saved beside the pictures may be another.
        self._sound = self.sound = None if sound.is_silent else sound
        self._look()
        self._list_pictures()

    def conform(self, stated: Stated) -> None:
        """Let `decode` deliver pictures for a file that says this of them, where that is another than this one says.

        They are scaled to square pixels, which changes `height` and `width`, and turned into BT.709.
        """
        if stated.pixel_aspect != self.stated.pixel_aspect:
            # The longer way, so that nothing is lost.
            longer = self.stated.pixel_aspect
            self.width = max(self.width, round(self.width * longer))
            self.height = max(self.height, round(self.height / longer))
        if stated.is_bt709 and not self.stated.is_bt709:
            if converts_colours():
                self._to_bt709 = self.stated.to_bt709
            else:
                logging.warning(
                    "async-frame-pipeline: PyAV %s cannot convert colours: they stay as they are, and look wrong",
                    av.__version__,
                )
        self.stated = stated

    def count_by_decoding(self) -> None:
        """Set `frames` to what `decode` delivers: from a damaged file other pictures come than it has packets."""
        with contextlib.closing(self._pictures()) as pictures:
            listed = [(pts, frame.duration or 0) for pts, frame in pictures]
        self._place(np.array(listed, TIMES))

    def decode(self, submit: Callable[[torch.Tensor], None]) -> None:
        done, pixels = 0, None
        # Closed here, not when the generator is collected: the traceback of what `submit` raises may keep it for long.
        with contextlib.closing(self._pictures()) as pictures:
            seen = ((pts, frame) for pts, frame in pictures if len(range(*self._places.of(pts))))
            for pts, picture in self._converted(seen):
                begin, end = self._places.of(pts)
                if end <= done:
                    continue  # it comes after one that is shown later
                if pixels is not None:
                    for _ in range(done, begin):  # those that should have come by now could not be decoded
                        submit(pixels)
                    done = max(done, begin)
                pixels = torch.from_numpy(picture)[:, None]
                for _ in range(done, end):
                    submit(pixels)
                done = end

    def _converted(self, pictures: Iterator[tuple[int, av.VideoFrame]]) -> Iterator[tuple[int, np.ndarray]]:
        """With their times, as `ToRGB` gives them, which may be a picture behind."""
        convert: ToRGB | None = None
        waiting: deque[int] = deque()
        for pts, frame in pictures:
            size = self.height, self.width
            convert = convert or ToRGB(frame, self._tick, self.alpha, size, self._chroma, self._to_bt709)
            waiting.append(pts)
            for picture in convert(frame):
                yield waiting.popleft(), picture
        for picture in convert(None) if convert else ():
            yield waiting.popleft(), picture

    def _pictures(self) -> Generator[tuple[int, av.VideoFrame], None, None]:
        """Those of the part, and when they begin; the file is open until the last, or `close`.

        The first may have begun before: it is what is seen when the part begins.
        """
        with self._part.open() as container:
            stream, earlier = _video(container), None
            if self._is_timed:
                self._part.seek(container, stream)
            for number, frame in enumerate(_decoded(container, stream)):
                pts = frame.pts if self._is_timed else number
                if pts is None:
                    continue
                if self._part.is_before(pts, self._tick):
                    earlier = pts, frame
                    continue
                if earlier is not None:
                    yield earlier
                    earlier = None
                if self._part.is_after(pts, self._tick):
                    return  # they come in the order they are shown in
                yield pts, frame
            if earlier is not None:
                yield earlier

    def _look(self) -> None:
        """See what the first picture and the file say of all."""
        with self._part.open() as container:
            stream = _video(container)
            first = next(_decoded(container, stream), None)
            if first is None:
                raise ValueError("The file's video has no frame that can be decoded.")
            rotated = quarter_turns(first) % 2
            self.height, self.width = (first.width, first.height) if rotated else (first.height, first.width)
            self.bit_depth, self.alpha = bits_of(first.format), has_alpha(first.format)
            self.stated = stated_in(container, stream, first, self._sound and sound_stream(container))
            self._chroma, self._to_bt709 = chroma_place(stream.codec_context.name, first), ""

    def _list_pictures(self) -> None:
        """Find out from the packets, without decoding them, when pictures begin; and at which rate to show them."""
        with self._part.open() as container:
            stream = _video(container)
            rates = [exact_fps(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
            self._tick, self._is_timed = stream.time_base, True
            self._is_sound_timed = True  # against the pictures
            listed = np.fromiter(
                (
                    (NO_TIME if packet.pts is None else packet.pts, packet.duration or 0)
                    for packet in container.demux(stream)
                    if packet.size and not packet.is_discard
                ),
                TIMES,
            )
            # What a file says of its own length; a last picture is not shown longer, whatever its packet says.
            lengths = [(stream.start_time, stream.duration, stream.time_base)]
            lengths.append((container.start_time, container.duration, Fraction(1, av.time_base)))
            self._end = min((float(((at or 0) + long) * tick) for at, long, tick in lengths if long), default=math.inf)
        distinct = np.unique(listed["pts"])
        if NO_TIME in distinct or 2 * len(distinct) < len(listed):
            # Bare streams, and AVIs, which know an order but no times: theirs is a constant rate.
            self._is_timed, rates = False, rates[:1] or [Fraction(1)]
            self._tick = 1 / rates[0]
            listed["pts"], listed["duration"] = np.arange(len(listed)), 1
        self.fps = rates[0] if rates else Fraction(1)
        if len(listed):
            begins, last = np.unique(listed["pts"]) * float(self._tick), listed[listed["pts"].argmax()]
            end = float((last["pts"] + last["duration"]) * self._tick)
            begun = [self._sound.begins, begins[0]] if self._sound is not None else []
            if max(np.diff(begins).max(initial=0), np.ptp(begun) if begun else 0) > LONGEST_SECONDS:
                # One of them is wrong, and nobody knows which; a file of all that time would never be finished.
                self._is_timed = self._is_sound_timed = False
                self.fps = exact_fps(rate_without_pauses(begins, rates))
                self._tick = 1 / self.fps
                listed["pts"], listed["duration"] = np.arange(len(listed)), 1
                lost = "the times of its pictures, one of which cannot be right"
                self.stated = replace(self.stated, left_out=(*self.stated.left_out, lost))
            else:
                self.fps = exact_fps(constant_rate(begins, rates, end))
        self._place(listed)

    def _place(self, listed: np.ndarray) -> None:
        """Set `frames`, and which of them each picture takes, from the times of pictures in any order."""
        part, tick = self._part, float(self._tick)
        pts, at = np.unique(listed["pts"], return_index=True)
        begins, lasts = pts * tick, float(listed["duration"][at[-1]] * tick) if len(at) else 0.0
        lasts = min(lasts, LONGEST_SECONDS)
        first = int(np.searchsorted(pts, int(part.start / self._tick))) if part.start > 0 else 0
        stop = len(pts) if math.isinf(part.end) else int(np.searchsorted(pts, int(part.end / self._tick)))
        # When the last of them is over.
        frame = float(1 / self.fps)
        end = (
            begins[stop] if stop < len(pts) else min(begins[-1] + (lasts or frame), self._end + frame) if stop else 0.0
        )
        end = min(end, part.end)
        sound = self._sound
        zeros = [*begins[:1], *([sound.begins] if sound is not None and self._is_sound_timed else [])]
        zero = part.start or min(zeros, default=0.0)
        if sound is not None:
            sound.begin_at(zero if self._is_sound_timed else part.start or sound.begins)
        if first < stop:
            lead = (begins[first] - zero) * float(self.fps)
            if part.start and lead < 1.5:
                # Frames are cut where they begin, as ComfyUI does it.
                self._places = Places(pts[first:stop], begins[first:stop], end, self.fps)
            else:
                seen = int(part.start > 0 and first > 0)
                taken = slice(first - seen, stop)
                self._places = Places(pts[taken], begins[taken], end, self.fps, round(lead), seen)
        elif first > 0 and (end - part.start) * float(self.fps) >= 1:
            # Nothing changes in this part; what is seen has begun before.
            begins[first - 1] = part.start
            self._places = Places(pts[first - 1 : first], begins[first - 1 : first], end, self.fps)
        else:
            raise ValueError(f"The video has no frames between {part.start:g} and {part.end:g} seconds.")
        self.frames = self._places.frames


def _video(container: av.container.InputContainer) -> av.VideoStream:
    """The first stream of pictures; the cover of an album is one only where there is no other."""
    if not container.streams.video:
        raise ValueError("The file has no video in it.")
    moving = (each for each in container.streams.video if not is_cover(each))
    stream = next(moving, container.streams.video[0])
    stream.thread_type = "AUTO"
    return stream


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Generator[av.VideoFrame, None, None]:
    decoder = None
    if stream.metadata.get("alpha_mode") == "1" and (name := ALPHA_DECODERS.get(stream.codec_context.name)):
        # FFmpeg's own leave transparency out.
        with contextlib.suppress(av.error.FFmpegError, ValueError):  # a PyAV without them
            decoder = cast(av.VideoCodecContext, av.CodecContext.create(name, "r"))
    for packet in container.demux(stream):
        try:
            frames = decoder.decode(packet if packet.size else None) if decoder else packet.decode()
        except av.error.InvalidDataError:  # costs these pictures, not the video, as in ComfyUI
            continue
        yield from frames
