"""What travels: jobs and their records, as JSON, checked before anything is done with them.

A job says what is to be decoded and names its data by SHA-256. Its record is the job with all that happened to it; the
record is the truth, and the queue holds only its id. Knows nothing of the broker and of torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

VERSION = 1
MOST_BYTES = 64 * 1024
# By memory that a decode may take, in MB: what a card of 6, 12, 24 and more GB has free. The smallest first.
CLASSES = {"s": 4_000, "m": 8_000, "l": 16_000, "xl": 32_000}
# The first is asked for first.
PRIORITIES = ("pro", "std")
QUEUED, IN_PROGRESS, COMPLETED, FAILED, CANCELLED = "queued", "in_progress", "completed", "failed", "cancelled"
ENDED = (COMPLETED, FAILED, CANCELLED)
STATES = (QUEUED, IN_PROGRESS, *ENDED)
# A reason that begins so holds until the job is begun.
WAITS = "it waits for"
NO_CARD = "no worker has a card that large"

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
DECODERS = ("auto", "fast", "exact")
# Families of VAEs that the fast decoder is for; all others are decoded by their own modules, "exact".
FAST_FAMILIES = ("Wan 2.1", "Wan 2.2")
OUTPUT_TYPES = ("mp4", "mkv")
# Bounds on what a job may ask for, so that no memory is taken for one that is absurd.
MOST_CHANNELS = 256
MOST_LATENT_FRAMES = 5_000
MOST_LATENT_AREA = 1 << 18
MOST_LATENT_BYTES = 2 << 30
MOST_VAE_BYTES = 8 << 30
MOST_AUDIO_BYTES = 1 << 30
MOST_NEED_MB = 1_000_000
MOST_FPS = 1000
# Of a safetensors file beside its tensors.
HEADER_BYTES = 1 << 20

_ID = re.compile(r"[0-9a-f]{32}\Z")
_RESULT = re.compile(r"[0-9a-f]{32}(\.[0-9]{1,19}){2}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
# A token of a subject: no dots, wildcards or blanks.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,32}\Z")
_CHOICE = re.compile(r"[a-z0-9][a-z0-9 ():.-]{0,31}\Z")
_NAMESPACE = uuid.UUID("6b1f6f0e-4c9e-4d64-9a55-1e1a4f9a2f0b")


class InvalidJob(ValueError):
    """What a job says, or the data that it names, cannot be decoded by anybody; trying again is of no use."""


def job_id(prompt_id: str, node_id: str, index: int = 0) -> str:
    """The same run of the same node is the same job, however often it is submitted."""
    return uuid.uuid5(_NAMESPACE, json.dumps([str(prompt_id), str(node_id), int(index)])).hex


@dataclass(frozen=True, slots=True)
class Blob:
    """Data that a job needs, by its content.

    Args:
        sha256: 64 hexadecimal digits.
        bytes: how many.
    """

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        _check(isinstance(self.sha256, str) and _SHA256.match(self.sha256), "sha256", self.sha256, "64 hex digits")
        _check_int("bytes", self.bytes, 1, MOST_VAE_BYTES)


@dataclass(frozen=True, slots=True)
class Vae(Blob):
    """The weights, a safetensors file.

    Args:
        family: as the nodes name it, "Wan 2.1".
        verdict: the RMS difference to the stock decoder that the client found, see nodes/families/wan.py; None where
            it did not compare.
    """

    family: str = ""
    verdict: float | None = None

    def __post_init__(self) -> None:
        Blob.__post_init__(self)
        _check_text("family", self.family, 64)
        if self.verdict is not None:
            _check_number("verdict", self.verdict, 0, 2)


@dataclass(frozen=True, slots=True)
class Params:
    """What to make.

    Args:
        shape: of the latent, (1, C, T, h, w).
        dtype: of the latent.
        do_scaling: True for diffusers' normalised latents; ComfyUI's are in the VAE's space already.
        fps: frames per second, as "16" or "24000/1001".
        output_type: the container.
        format, quality, bit_depth: as in Save Video (Streaming); None for a depth that suits the format.
        decoder: "fast", "exact", for which a worker with a ComfyUI is needed, or "auto", what a worker has that can
            decode this VAE.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    do_scaling: bool = False
    fps: str = "16"
    output_type: str = "mp4"
    format: str = "mp4 (h264)"
    quality: str = "high"
    bit_depth: int = 8
    decoder: str = "auto"

    def __post_init__(self) -> None:
        shape = self.shape
        _check(isinstance(shape, (list, tuple)) and len(shape) == 5, "shape", shape, "(1, C, T, h, w)")
        object.__setattr__(self, "shape", tuple(shape))
        for name, size, most in zip("BCThw", shape, (1, MOST_CHANNELS, MOST_LATENT_FRAMES, 1 << 13, 1 << 13)):
            _check_int(f"shape's {name}", size, 1, most)
        _check_int("shape's h * w", shape[3] * shape[4], 1, MOST_LATENT_AREA)
        _check_in("dtype", self.dtype, DTYPE_BYTES)
        _check_int("the latent's bytes", self.latent_bytes, 1, MOST_LATENT_BYTES)
        _check(isinstance(self.do_scaling, bool), "do_scaling", self.do_scaling, "true or false")
        _check_in("output_type", self.output_type, OUTPUT_TYPES)
        for name in ("format", "quality"):
            value = getattr(self, name)
            _check(isinstance(value, str) and _CHOICE.match(value), name, value, "a format's words")
        _check(self.format.startswith(self.output_type), "format", self.format, f"one of {self.output_type}")
        _check_in("bit_depth", self.bit_depth, (8, 10, 12, 16))
        _check_in("decoder", self.decoder, DECODERS)
        _check(isinstance(self.fps, str) and re.match(r"\d{1,9}(/\d{1,9})?\Z", self.fps), "fps", self.fps, "24000/1001")
        _check(not self.fps.endswith("/0") and 0 < self.rate <= MOST_FPS, "fps", self.fps, f"up to {MOST_FPS}")

    @property
    def rate(self) -> Fraction:
        top, _, bottom = self.fps.partition("/")
        return Fraction(int(top), int(bottom or 1) or 1)

    @property
    def latent_bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Client:
    """Who is to hear of it: ComfyUI's client, prompt and node; texts that nobody takes for a path."""

    id: str = ""
    prompt_id: str = ""
    node_id: str = ""

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            _check_text(f"client.{each.name}", getattr(self, each.name), 200)


@dataclass(frozen=True, slots=True)
class Job:
    """One video to decode.

    Args:
        id: 32 hexadecimal digits, see `job_id`.
        user: whose; letters, digits, "_" and "-".
        priority: from PRIORITIES.
        need_mb: memory that the decode will take, by the client's estimate; decides which workers ask for it.
        created: seconds since 1970.
        deadline: after it the job is not begun any more; None for never. Seconds since 1970 by its client's clock,
            counted from when it was queued, so that other clocks need not agree.
        name_prefix: what the client wants to call the file. No worker makes a path of it.
    Raises:
        InvalidJob: with what is wrong.
    """

    id: str
    vae: Vae
    latent: Blob
    params: Params
    audio: Blob | None = None
    user: str = "local"
    priority: str = "std"
    need_mb: int = 1
    created: float = field(default_factory=time.time)
    deadline: float | None = None
    client: Client = field(default_factory=Client)
    name_prefix: str = "video"
    v: int = VERSION

    def __post_init__(self) -> None:
        _check(self.v == VERSION and type(self.v) is int, "version", self.v, f"{VERSION}, the only one known here")
        for name, part in (("vae", Vae), ("latent", Blob), ("params", Params), ("client", Client)):
            _check(isinstance(getattr(self, name), part), name, getattr(self, name), "an object")
        _check(is_id(self.id), "id", self.id, "32 hex digits")
        _check(isinstance(self.user, str) and _TOKEN.match(self.user), "user", self.user, "letters, digits, _ and -")
        _check_in("priority", self.priority, PRIORITIES)
        _check_int("need_mb", self.need_mb, 1, max(CLASSES.values()))
        _check_number("created", self.created, 0, math.inf)
        if self.deadline is not None:
            _check_number("deadline", self.deadline, 0, math.inf)
        _check_int("latent.bytes", self.latent.bytes, self.params.latent_bytes, self.params.latent_bytes + HEADER_BYTES)
        if self.audio is not None:
            _check_int("audio.bytes", self.audio.bytes, 1, MOST_AUDIO_BYTES)
        family = self.vae.family
        fast = "auto or exact, as there is no fast decoder for this VAE"
        _check(self.params.decoder != "fast" or family in FAST_FAMILIES, "decoder", self.params.decoder, fast)
        _check_text("name_prefix", self.name_prefix, 200)
        parts = re.split(r"[\\/]", self.name_prefix)
        inside = ".." not in parts and "" not in parts and ":" not in self.name_prefix and self.name_prefix
        _check(inside, "name_prefix", self.name_prefix, "a name inside of the output folder")

    @property
    def decoder(self) -> str:
        """What a worker has to have for it, or "auto"."""
        return "exact" if self.vae.family not in FAST_FAMILIES else self.params.decoder

    def is_for(self, decoders: Iterable[str]) -> bool:
        """Whether a worker can do it that has these."""
        return self.decoder in ("auto", *decoders)

    @property
    def memory_class(self) -> str:
        """The smallest that holds it."""
        return next(name for name, most_mb in CLASSES.items() if self.need_mb <= most_mb)

    @property
    def subject(self) -> str:
        return f"job.{self.memory_class}.{self.priority}.{self.user}"

    @classmethod
    def of(cls, values: object) -> Job:
        """From what JSON gave; fields that this version does not know are left out.

        Raises:
            InvalidJob: with what is wrong.
        """
        _check(isinstance(values, dict), "job", type(values).__name__, "an object")
        if values.get("v") != VERSION:  # before anything that another version may mean otherwise
            _check(False, "version", values.get("v"), f"{VERSION}, the only one known here")
        parts = {"vae": Vae, "latent": Blob, "audio": Blob, "params": Params, "client": Client}
        given = {key: values[key] for key in parts if values.get(key) is not None}
        made = {key: _made(parts[key], key, value) for key, value in given.items()}
        return _made(cls, "job", {**values, **made})


@dataclass(frozen=True, slots=True)
class Result:
    """A finished file.

    Args:
        name: of the blob, see `Record.result_name`.
        frames, width, height: what is in it.
        seconds: decoding and encoding took.
        how: what the report says, for people.
    """

    name: str
    sha256: str
    bytes: int
    frames: int
    width: int
    height: int
    seconds: float
    how: str = ""

    def __post_init__(self) -> None:
        _check(
            isinstance(self.name, str) and _RESULT.match(self.name), "result.name", self.name, "an id and two numbers"
        )
        Blob(self.sha256, self.bytes)
        for name in ("frames", "width", "height"):
            _check_int(f"result.{name}", getattr(self, name), 1, 1 << 20)
        _check_number("result.seconds", self.seconds, 0, math.inf)
        _check(isinstance(self.how, str), "result.how", self.how, "a text")


@dataclass(frozen=True, slots=True)
class Record:
    """A job and what happened to it. Replaced only by compare-and-set, see `Broker.replace`.

    Attributes:
        state: QUEUED, IN_PROGRESS, or one of ENDED.
        round: how often it was queued: by its client, by `retry`, for a larger class.
        attempt: how often a worker began it; the number fences off workers that lost it.
        tries: of this round, those that count against it: not those of workers that were told to stop.
        worker: that began it last.
        message: number of the id in the queue that it began with.
        memory_class: the queue that it waits in, at least its job's.
        reason: why it failed, or waits again.
        result: once completed.
        delivered: when its client had the file.
        revision: of the broker; not stored.
        stored: since when this revision is there, by the broker's clock; 0 where it was read alone. Other times are by
            the clock of who wrote them.
    """

    job: Job
    state: str = QUEUED
    round: int = 1
    attempt: int = 0
    tries: int = 0
    worker: str = ""
    message: int = 0
    memory_class: str = ""
    reason: str = ""
    result: Result | None = None
    queued: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    delivered: float = 0.0
    revision: int = field(default=0, compare=False)
    stored: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        if not self.memory_class:
            object.__setattr__(self, "memory_class", self.job.memory_class)
        _check_in("memory_class", self.memory_class, CLASSES)
        _check_in("state", self.state, STATES)
        for name, most in (("round", 999_999), ("attempt", 999_999), ("tries", 999_999), ("message", 1 << 62)):
            _check_int(name, getattr(self, name), 0, most)
        for name in ("queued", "started", "ended", "delivered"):
            _check_number(name, getattr(self, name), 0, math.inf)
        for name in ("worker", "reason"):
            _check(isinstance(getattr(self, name), str), name, getattr(self, name), "a text")

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def subject(self) -> str:
        return f"job.{self.memory_class}.{self.job.priority}.{self.job.user}"

    @property
    def message_id(self) -> str:
        """The broker keeps one message of each; of a job that was deleted and comes again it is another one."""
        return f"{self.id}.{self.round}.{self.queued}"

    def result_name(self, attempt: int) -> str:
        """Of an attempt's video, and of no other's: attempts of a job that was deleted and came again begin anew, but
        with another number in the queue.
        """
        return f"{self.id}.{self.message}.{attempt}"

    def to_json(self) -> bytes:
        values = dataclasses.asdict(self)
        del values["revision"], values["stored"]
        data = json.dumps(values, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
        _check_int("the job's bytes as JSON", len(data), 1, MOST_BYTES)
        return data

    @classmethod
    def of(cls, data: bytes, revision: int = 0, stored: float = 0.0) -> Record:
        """Raises:
        InvalidJob: it is not one, or its job is not.
        """
        values = from_json(data)
        result = values.get("result")
        made = {
            "job": Job.of(values.get("job")),
            "result": None if result is None else _made(Result, "result", result),
            "revision": revision,
            "stored": stored,
        }
        return _made(cls, "record", {**values, **made})


def from_json(data: bytes) -> dict:
    """Raises:
    InvalidJob: too long, or not an object.
    """
    _check_int("the message's bytes", len(data), 1, MOST_BYTES)
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidJob(f"this is not JSON: {error}") from error
    _check(isinstance(values, dict), "message", type(values).__name__, "an object")
    return values


def is_card_for(memory_class: str, workers: Iterable[dict]) -> bool:
    """Whether one of these workers has, of what they say of themselves, whatever is free of it now."""
    sizes = (each.get("all_mb") for each in workers)
    return any(type(size) in (int, float) and size >= CLASSES[memory_class] for size in sizes)


def is_id(value: object) -> bool:
    return isinstance(value, str) and _ID.match(value) is not None


def _made(cls: type, name: str, values: object):
    """A dataclass of those values that it has fields for."""
    _check(isinstance(values, dict), name, type(values).__name__, "an object")
    known = {each.name for each in dataclasses.fields(cls)}
    try:
        return cls(**{key: value for key, value in values.items() if key in known})
    except TypeError as error:
        raise InvalidJob(f"{name}: {error}") from error


def _check(holds: object, name: str, given: object, expected: str) -> None:
    if not holds:
        raise InvalidJob(f"{name} is {str(given)[:100]!r}, expected {expected}")


def _check_int(name: str, value: object, least: int, most: int) -> None:
    _check(type(value) is int and least <= value <= most, name, value, f"a whole number from {least} to {most}")


def _check_number(name: str, value: object, least: float, most: float) -> None:
    is_number = type(value) in (int, float) and math.isfinite(value)
    _check(is_number and least <= value <= most, name, value, f"a number from {least} to {most}")


def _check_in(name: str, value: object, allowed) -> None:
    expected = "one of " + ", ".join(map(str, allowed))
    _check(isinstance(value, (str, int)) and value in list(allowed), name, value, expected)


def _check_text(name: str, value: object, most: int) -> None:
    fits = isinstance(value, str) and len(value) <= most and value.isprintable()
    _check(fits, name, value, f"a text of at most {most} characters that can be printed")
