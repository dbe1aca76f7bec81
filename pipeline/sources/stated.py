"""What a video file says of itself, read from it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction

import av

from ..stated import Stated

UNKNOWN = (0, 2, 3)  # ITU-T H.273: reserved, or not specified
# What encoders and FFmpeg's conversion take; of logarithmic curves (9 and 10), no screen shows anything.
PRIMARIES = range(1, 13)
TRANSFERS = tuple(set(range(1, 19)) - {9, 10})
MOST_LIGHT = 10_000  # cd/m2, of PQ
MOST_CONTENT_LIGHT = 0xFFFF
# Pixels that are further from square than this are a mistake of the file.
MOST_ASPECT = 8
# Which file it was, not what is in it; and how ComfyUI made it, where this one will say how it was made.
NOT_KEPT_TAGS = {
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
    "duration",
    "prompt",
    "workflow",
    "async-frame-pipeline",
}
KEPT_SOUND_TAGS = ("language", "title")
# Side data of pictures that encoders do not take, by PyAV's names.
SIDE_DATA = {
    "A53_CC": "closed captions",
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DOVI_METADATA": "Dolby Vision",
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "STEREO3D": "3D",
    "SPHERICAL": "360 degrees",
    "ICC_PROFILE": "a colour profile",
    "S12M_TIMECODE": "time codes",
}


def stated_in(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    frame: av.VideoFrame,
    sound: av.AudioStream | None,
) -> Stated:
    """What an open file says of itself.

    Args:
        stream, frame: the pictures, and the first of them.
        sound: the sound that is taken.
    """
    context = stream.codec_context
    primaries, transfer = (0 if each in UNKNOWN else int(each) for each in (context.color_primaries, context.color_trc))
    cannot_be = []
    if primaries and primaries not in PRIMARIES or transfer and transfer not in TRANSFERS:
        cannot_be.append(f"that its colours are {primaries}/{transfer}")
        primaries = primaries if primaries in PRIMARIES else 0
        transfer = transfer if transfer in TRANSFERS else 0
    side_data = {each.type.name: bytes(each) for each in frame.side_data}
    mastering = _mastering(side_data.get("MASTERING_DISPLAY_METADATA", b""))
    content_light = _content_light(side_data.get("CONTENT_LIGHT_LEVEL", b""))
    if mastering and not _can_be(mastering) or max(content_light, default=0) > MOST_CONTENT_LIGHT:
        cannot_be.append("the light that it says of the screen, or of itself, which cannot be right")
        mastering = mastering if mastering and _can_be(mastering) else ()
        content_light = content_light if max(content_light, default=0) <= MOST_CONTENT_LIGHT else ()
    return Stated(
        pixel_aspect=_aspect(stream, frame),
        primaries=primaries,
        transfer=transfer,
        mastering=mastering,
        content_light=content_light,
        tags={key: text for key, text in container.metadata.items() if key.lower() not in NOT_KEPT_TAGS},
        sound_tags={key: sound.metadata[key] for key in KEPT_SOUND_TAGS if key in sound.metadata} if sound else {},
        has_sound=sound is not None,
        is_interlaced=bool(frame.interlaced_frame),
        left_out=tuple(dict.fromkeys([*_left_out(container, stream, sound, side_data), *cannot_be])),
    )


def quarter_turns(frame: av.VideoFrame) -> int:
    """How often a picture is to be turned to the left to be upright; others than these are rounded to them."""
    return round(frame.rotation / 90) % 4


def is_mirrored(frame: av.VideoFrame) -> bool:
    """Whether a picture is to be turned upside down, before all turns, as by a mirror."""
    matrix = next((bytes(each) for each in frame.side_data if each.type.name == "DISPLAYMATRIX"), b"")
    if len(matrix) < 36:
        return False
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    return a * d - b * c < 0


def _aspect(stream: av.VideoStream, frame: av.VideoFrame) -> Fraction:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, MOST_ASPECT) <= aspect <= MOST_ASPECT:
        return Fraction(1)
    return 1 / aspect if quarter_turns(frame) % 2 else aspect


def _mastering(data: bytes) -> tuple[Fraction, ...]:
    """From FFmpeg's AVMasteringDisplayMetadata: ten fractions, and whether it has the colours, and the light."""
    if len(data) < 88:
        return ()
    numbers = struct.unpack("=22i", data[:88])
    if not all(numbers[20:]) or not all(numbers[1:20:2]):
        return ()
    return tuple(Fraction(*pair) for pair in zip(numbers[0:20:2], numbers[1:20:2]))


def _can_be(mastering: tuple[Fraction, ...]) -> bool:
    """Whether there may be such a screen; encoders refuse others."""
    *places, least, most = mastering
    return all(0 <= place <= 1 for place in places) and 0 <= least < most <= MOST_LIGHT


def _content_light(data: bytes) -> tuple[int, int] | tuple[()]:
    """From FFmpeg's AVContentLightMetadata."""
    most, mean = struct.unpack("=2I", data[:8]) if len(data) >= 8 else (0, 0)
    return (most, mean) if most or mean else ()


def _left_out(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    sound: av.AudioStream | None,
    side_data: dict[str, bytes],
) -> Iterator[str]:
    if hasattr(container, "chapters") and container.chapters():  # older PyAVs cannot tell
        yield "chapters"
    others = [each for each in container.streams if each not in (stream, sound)]
    covers = [each for each in others if each.type == "video" and is_cover(each)]
    if covers:
        yield "the cover picture"
    kinds = {"video": "video track", "audio": "sound track", "subtitle": "subtitle track"}
    for kind, name in kinds.items():
        more = sum(each.type == kind for each in others) - (len(covers) if kind == "video" else 0)
        if more:
            yield f"{more} {'' if kind == 'subtitle' else 'more '}{name}{'s' * (more > 1)}"
    if any(each.type == "attachment" for each in others):
        yield "attached files"
    for name, words in SIDE_DATA.items():
        if name in side_data:
            yield words


def is_cover(stream: av.VideoStream) -> bool:
    """Whether it is the cover of an album, not a video."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)
