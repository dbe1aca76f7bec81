"""What the inputs of Save Video (Streaming) may be, alone and together.

At a typed value ComfyUI has looked; one that another node gives may be of any type. Each is converted once, and what
comes out is what is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

from ..pipeline.sinks import formats
from ..pipeline.sinks.audio import CODECS
from ..pipeline.sinks.encoders.base import QUALITIES, SPEEDS
from ..pipeline.sinks.formats import CHROMAS, DEPTHS, FORMATS
from ..pipeline.text import shown
from . import values
from .comfyui import server

AUTO = "auto"
BIT_DEPTHS = (AUTO, *map(str, DEPTHS))
COLOURS = {
    "BT.709": ("bt709", False),
    "BT.709 full range": ("bt709", True),
    "BT.601": ("bt601", False),
    "BT.601 full range": ("bt601", True),
}
LENGTHS = ("video", "longest", "shortest")
MOST_REPEATS = 1000
BY_QUALITY = -1.0  # a CRF that is none
LARGEST_CRF = 63.0  # on the largest of the encoders' scales

FRAMES_OUTPUT = 1
NOT_KEPT = "Save Video (Streaming) keeps no frames: switch on keep_frames to use its frames output"
NOTHING_CONNECTED = "there is nothing to save: connect a video, or images"
BOTH_CONNECTED = "a video and images are connected, and one node saves one of them: disconnect the other"


class Refused(ValueError):
    """An input that cannot be so; `input` is its name."""

    def __init__(self, message: str, input: str = ""):
        super().__init__(message)
        self.input = input


@dataclass(frozen=True, slots=True)
class SaverInputs:
    """The inputs that say how to save, converted; what is not given is as the node shows it."""

    filename_prefix: str
    format: str = "mp4 (h264)"
    quality: str = "high"
    speed: str = "medium"
    bit_depth: str = AUTO
    chroma: str = AUTO
    color: str = "BT.709"
    dither: bool = False
    alpha: bool = True
    audio_codec: str = AUTO
    audio_length: str = "video"
    ping_pong: bool = False
    repeat: int = 0
    keep_unfinished: bool = False
    preview: bool = True
    keep_frames: bool = False
    crf: float = BY_QUALITY
    save_output: bool = True

    @classmethod
    def of(cls, given: Mapping[str, object]) -> SaverInputs:
        """Convert what a node was given.

        Raises:
            Refused: one of them cannot be so, or not together with another.
        """
        inputs = cls(**{name: convert(name, value) for name, value in given.items()})
        check_together({field.name: getattr(inputs, field.name) for field in fields(inputs)})
        return inputs


def convert(name: str, value: object) -> object:
    """The value of one input, as it is used.

    Raises:
        Refused: it cannot be that; says what it can be.
    """
    with _blaming(name):
        if value is None:
            raise ValueError(f"{name} is None: the node that it comes from gives nothing")
        return _CONVERT[name](name, value)


def check_together(known: Mapping[str, object]) -> None:
    """Refuse what is right alone and wrong together. The format is never to blame: it is what the user is after.

    Args:
        known: converted values; those that are not known yet are left out.
    Raises:
        Refused: something the format does not have; says what it has.
    """
    if "format" not in known:
        return
    file_format = FORMATS[known["format"]]
    quality, chroma, crf = known.get("quality"), known.get("chroma"), known.get("crf", BY_QUALITY)
    with _blaming("quality"):
        file_format.check(quality, None, None)
    with _blaming("chroma"):
        file_format.check(None, None if chroma == AUTO else chroma, None)
    if chroma is not None and known.get("bit_depth", AUTO) != AUTO:  # the depths depend on the chroma
        with _blaming("bit_depth"):
            file_format.check(None, None if chroma == AUTO else chroma, int(known["bit_depth"]))
    if crf != BY_QUALITY:
        with _blaming("crf"):
            file_format.check(quality, None, None, crf)
    codec = known.get("audio_codec", AUTO)
    if codec != AUTO and file_format.is_video and codec not in file_format.audio:
        can = f"{file_format.name} can have sound as {', '.join(file_format.audio)}; got {codec}"
        raise Refused(can, "audio_codec")
    if file_format.is_folder and known.get("repeat", 0) > 1:
        raise Refused(f"{file_format.name} cannot repeat: set repeat to 0", "repeat")


def fault_when_queued(inputs: Mapping[str, object], node_id: str, prompt: Mapping[str, dict]) -> tuple[str, str] | None:
    """What of a node in a prompt cannot be saved: the input to blame, and why; None if nothing.

    Values that ComfyUI refuses by itself, or that another node will give, are not known here.
    """
    try:
        check_connected(*(isinstance(inputs.get(name), list) for name in ("video", "images")))
        known = _check_typed(inputs)
        # Where it is not given, using them switches it on.
        if "keep_frames" in inputs and known.get("keep_frames") is False and frames_are_used(node_id, prompt):
            raise Refused(NOT_KEPT, "keep_frames")
    except Refused as refused:
        return refused.input, str(refused)
    return None


def fault_of_values_when_queued(
    inputs: Mapping[str, object], node_id: str, prompt: Mapping[str, dict]
) -> tuple[str, str] | None:
    """The same of a node that has some of these inputs, and saves something else."""
    try:
        _check_typed(inputs)
    except Refused as refused:
        return refused.input, str(refused)
    return None


def fault_alone(name: str, value: object) -> str | None:
    """What is wrong with a typed value whatever the others are; None if nothing."""
    try:
        if name in _CONVERT:
            convert(name, value)
    except Refused as refused:
        return str(refused)
    return None


def check_connected(video: bool, images: bool) -> None:
    """Refuse both, and none."""
    if not (video or images):
        raise Refused(NOTHING_CONNECTED, "video")
    if video and images:
        raise Refused(BOTH_CONNECTED, "images")


def frames_are_used(node_id: str, prompt: Mapping[str, dict]) -> bool:
    """Whether a prompt has a link from the frames output of this node.

    Of nodes that lead to no output ComfyUI looks at nothing: they may be anything.
    """
    link = [node_id, FRAMES_OUTPUT]
    given = (node.get("inputs") for node in prompt.values() if isinstance(node, dict))
    return any(link in inputs.values() for inputs in given if isinstance(inputs, dict))


def _check_typed(inputs: Mapping[str, object]) -> dict[str, object]:
    """Refuse what of the values in a prompt cannot be saved; those that are known, converted."""
    if isinstance(prefix := _typed(inputs, "filename_prefix"), (str, int, float)):
        convert("filename_prefix", str(prefix))
    known = {}
    for field in fields(SaverInputs):
        if field.name not in inputs:
            known[field.name] = field.default
        else:
            with contextlib.suppress(Refused):
                known[field.name] = convert(field.name, _typed(inputs, field.name))
    check_together(known)
    return known


def _typed(inputs: Mapping[str, object], name: str) -> object:
    """What stands in the prompt; None for what another node gives."""
    value = inputs.get(name)
    if isinstance(value, dict):  # how a list is written that is no link
        value = value.get("__value__")
    return None if isinstance(value, list) else value


@contextlib.contextmanager
def _blaming(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise Refused(str(error), name) from error


# -- by the input's name and what was given: the value, or a ValueError ----------------------------


def _prefix(name: str, value: object) -> object:
    return server.check_prefix(value)


class Offered(list):
    """The formats to choose from. Those that only another machine has are not on it, and not refused either: a
    workflow that was made there runs here with the next best encoder."""

    def __contains__(self, name: object) -> bool:
        return name in list(FORMATS)


def _format(name: str, value: object) -> str:
    # The list for the message is the one of this machine.
    return str(value) if str(value) in FORMATS else values.one_of(name, value, formats.available_formats())


def _one_of(*allowed: str) -> Callable[[str, object], str]:
    return lambda name, value: values.one_of(name, value, allowed)


def _repeat(name: str, value: object) -> int:
    return values.whole(name, value, 0, MOST_REPEATS)


def _crf(name: str, value: object) -> float:
    crf = values.number(value)
    if crf != BY_QUALITY and not 0 <= crf <= LARGEST_CRF:
        can = f"{name} can be {BY_QUALITY:g}, for what quality says, or 0 to {LARGEST_CRF:g}"
        raise ValueError(f"{can}, got {shown(value)}")
    return crf


_CONVERT: dict[str, Callable[[str, object], object]] = {
    "filename_prefix": _prefix,
    "format": _format,
    "quality": _one_of(*QUALITIES),
    "speed": _one_of(*SPEEDS),
    "bit_depth": _one_of(*BIT_DEPTHS),
    "chroma": _one_of(AUTO, *CHROMAS),
    "color": _one_of(*COLOURS),
    "dither": values.flag,
    "alpha": values.flag,
    "audio_codec": _one_of(AUTO, *CODECS),
    "audio_length": _one_of(*LENGTHS),
    "ping_pong": values.flag,
    "repeat": _repeat,
    "keep_unfinished": values.flag,
    "preview": values.flag,
    "keep_frames": values.flag,
    "crf": _crf,
    "save_output": values.flag,
}
