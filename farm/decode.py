"""A job's latents into a file, with `pipeline`: the only part of a farm that needs torch.

Knows nothing of queues: it is given files and writes one.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import psutil
import safetensors
import safetensors.torch
import torch

from ..pipeline import engine
from ..pipeline.decoders.away import Away
from ..pipeline.decoders.fast import cuda, plan, trust, weights
from ..pipeline.decoders.fast.network import FRAMES_PER_STEP, WanDecoder, steps
from ..pipeline.report import Report
from ..pipeline.sinks.formats import FORMATS, Choice
from ..pipeline.sinks.video_file import VideoFileSink, VideoOptions
from ..pipeline.sources.file_sound import FileSound
from ..pipeline.sources.part import Part
from ..pipeline.video_spec import VideoSpec
from .header import DTYPES
from .messages import FAST_FAMILIES, HEADER_BYTES, InvalidJob, Job
from .scaling import MEAN, STD
from .work import Made, NoDevice, OutOfMemory, Work

# How one begins. Nothing else is opened: a playlist, say, could name other files of this machine.
FLAC = b"fLaC"
LATENT_TENSOR = "latent_tensor"
SLOTS = 4
WARM = 2
MOST_CONFIG_CHARACTERS = 1 << 20
# A busy CPU with two cores takes 100 s for four frames of 480p, five times that for 1080p.
CPU_PATIENCE = 60.0
# What CUDA and AMD say of a GPU that torch was not built for.
NOT_BUILT_FOR = ("no kernel image", "invalid device function")


@dataclass(frozen=True, slots=True)
class Model:
    """A VAE that is here: its weights, and the plans for the sizes that it had."""

    weights: weights.Weights
    plans: plan.Plans

    @property
    def channels(self) -> int:
        """Of a latent."""
        return self.weights.latent[0].shape[1]

    def check(self, job: Job) -> None:
        """Raises:
        InvalidJob: the job says something else of it.
        """

    def spec(self, latent: torch.Tensor, device: torch.device) -> VideoSpec:
        """Of the frames that it makes of a latent."""
        _, _, latent_frames, height, width = latent.shape
        scale = 8 * self.weights.patch
        return VideoSpec(FRAMES_PER_STEP * (latent_frames - 1) + 1, scale * height, scale * width, device)


@dataclass(frozen=True, slots=True)
class Stored:
    """A VAE as its file holds it.

    Attributes:
        tensors: in main memory.
        config: of its model, as JSON, where the file says it; see nodes/elsewhere_files.py.
    """

    tensors: dict[str, torch.Tensor]
    config: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job, read and checked.

    Attributes:
        latent: in main memory; page-locked for a GPU.
        stored: the VAE; None where it was warm.
    """

    choice: Choice
    audio: FileSound | None
    latent: torch.Tensor
    stored: Stored | None


class Decoder:
    """Decodes on one device, one video at a time, and keeps the last VAEs there.

    Args:
        device: "cpu" or "cuda".
    Attributes:
        decoders: what a job may ask for here, beside "auto".
        patience: see `Decode`.
    Raises:
        NoDevice: it is not there, or cannot decode.
        RuntimeError: it cannot for now: its memory is full, say.
    """

    decoders: tuple[str, ...] = ("fast",)

    def __init__(self, device: str, needs_kernels: bool = True):
        self.device = torch.device(device)
        self.patience = CPU_PATIENCE if self.device.type == "cpu" else 1.0
        if self.device.type == "cuda":
            _check_gpu(self.device, needs_kernels)
        self._warm: OrderedDict[str, Model] = OrderedDict()
        self._needed: int | None = None  # bytes, of the decode under way; None where there is no other way

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"

    @property
    def warm(self) -> list[str]:
        """SHA-256 of the VAEs that are here already."""
        return list(self._warm)

    def memory_mb(self) -> tuple[int, int]:
        """(free, all) of the device, whoever uses the rest."""
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            # What torch keeps for the next decode is free for it.
            free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        else:
            free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
        return free >> 20, total >> 20

    def prepare(self, job: Job, latent: Path, vae: Path | None, audio: Path | None) -> Prepared:
        """Read and check a job, on any thread; see `Decode.prepare`."""
        self._check(job)
        choice = choice_of(job)  # before anything is read
        sound, tensor = sound_of(audio), latent_of(job, latent)
        # The VAE's tensors are not page-locked: torch would keep so much of main memory for good.
        tensor = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return Prepared(choice, sound, tensor, None if vae is None else stored_in(vae))

    def __call__(self, work: Work) -> Made:
        """Decode and encode.

        Raises:
            InvalidJob: nobody can decode this.
            OutOfMemory: it does not fit here.
            Otherwise: what `engine.run` raises, and what `check` does.
        Stream: on the caller's thread and its current stream; nothing is left running.
        """
        job = work.job
        prepared = work.prepared or self.prepare(job, work.latent, None, work.audio)
        choice, audio, latent = prepared.choice, prepared.audio, prepared.latent
        model = self._model(job, lambda: prepared.stored or stored_in(work.vae()))
        model.check(job)
        if latent.shape[1] != model.channels:
            raise InvalidJob(f"the VAE takes latents of {model.channels} channels, got {latent.shape[1]}")
        if job.params.do_scaling:
            latent = denormalised(latent, job.vae.family)
        below = None
        while True:
            self._needed = None
            try:
                return self._decode(work, choice, audio, latent, model, below)
            except (torch.OutOfMemoryError, engine.DecodeError, MemoryError) as error:
                if not ran_out(error):
                    raise
            self._make_room()
            # Once more in smaller bands; after that it is for others.
            if below is not None or self._needed is None:
                raise OutOfMemory(f"{job.params.shape[3] * job.params.shape[4]} latent pixels do not fit")
            below = int(self._needed * plan.LESS)

    def _decode(
        self,
        work: Work,
        choice: Choice,
        audio: FileSound | None,
        latent: torch.Tensor,
        model: Model,
        below: int | None,
    ) -> Made:
        spec = model.spec(latent, self.device)
        slots, frames_per_slot = self._slots(model, below)
        options = VideoOptions(work.job.params.rate, choice, audio, metadata=prompt_in(work.latent))
        report, began = Report(), time.monotonic()
        with contextlib.ExitStack() as until_then:
            engine.run(
                self._way(model, latent, below, until_then),
                spec,
                [VideoFileSink(work.target, options)],
                slots=slots,
                frames_per_slot=frames_per_slot,
                check=work.check,
                progress=lambda frames: work.progress(frames, spec.frames),
                report=report,
            )
        return Made(spec.frames, spec.width, spec.height, time.monotonic() - began, report.text().splitlines()[0])

    def _slots(self, model: Model, below: int | None) -> tuple[int, int]:
        """(how many, frames in each)."""
        return SLOTS, FRAMES_PER_STEP

    def _way(
        self, model: Model, latent: torch.Tensor, below: int | None, until_then: contextlib.ExitStack
    ) -> Callable[[engine.Submit], None]:
        """What submits the frames.

        Args:
            below: bytes that it is to need less than, after memory ran out.
            until_then: ends with the decode.
        """
        away = Away(self.device)
        until_then.callback(away.close)

        def decode(submit: engine.Submit) -> None:
            chosen = self._plan(model, latent, below)  # by now the slots are there, and what they take is not free
            self._needed = chosen.needed
            decoder = WanDecoder(model.weights, chosen.bands, away)
            for frames_cthw in steps(decoder, latent.to(self.device, non_blocking=True)):
                submit(frames_cthw)

        return decode

    def _plan(self, model: Model, latent: torch.Tensor, below: int | None) -> plan.Plan:
        free = self.memory_mb()[0] << 20
        on_cuda = self.device.type == "cuda"
        main = psutil.virtual_memory().available if on_cuda else 0
        there = plan.Room(free, free, main)
        return plan.choose(lambda bands: model.plans.of(*latent.shape[-2:], bands), there, latent.shape[2], below)

    def _check(self, job: Job) -> None:
        """Raises:
        InvalidJob: this decoder is not right for the job's VAE.
        """
        vae = job.vae
        if vae.family not in FAST_FAMILIES:
            raise InvalidJob(
                f"there is no fast decoder for VAEs of {vae.family!r}, only for {', '.join(FAST_FAMILIES)}"
            )
        if vae.verdict is not None and not vae.verdict <= trust.LARGEST_DIFFERENCE:
            raise InvalidJob(f"with this VAE the frames differ from the stock decoder's, by {vae.verdict:.3g} (RMS)")

    def _load(self, stored: Stored) -> Model:
        """Onto the device.

        Raises:
            ValueError: it is no such VAE.
        """
        loaded = weights.load(stored.tensors, self.device, weights.DTYPES[self.device.type])
        return Model(loaded, plan.Plans(loaded, joins=True))

    def _model(self, job: Job, stored: Callable[[], Stored]) -> Model:
        key = job.vae.sha256
        if key not in self._warm:
            while len(self._warm) >= WARM:
                self._warm.popitem(last=False)
                self._make_room()
            try:
                self._warm[key] = self._load(stored())
            except ValueError as error:
                raise InvalidJob(f"the VAE cannot be read: {error}") from error
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise  # of the device, say: it says nothing of the VAE
                raise OutOfMemory("the VAE does not fit") from error
        self._warm.move_to_end(key)
        return self._warm[key]

    def _make_room(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _check_gpu(device: torch.device, needs_kernels: bool) -> None:
    """Raises:
    NoDevice, RuntimeError: see `Decoder`.
    """
    if not torch.cuda.is_available():
        try:
            torch.cuda.init()  # it says why
        except (RuntimeError, AssertionError) as error:
            raise NoDevice("torch says: " + str(error).partition(". ")[0]) from error
    reasons = []
    try:
        # First of all: a GPU that is full or another's fails here, and not as one that no kernel can be compiled for.
        torch.ones(1, device=device).add_(1)
    except RuntimeError as error:
        if not any(words in str(error) for words in NOT_BUILT_FOR):
            raise
        built_for = ", ".join(torch.cuda.get_arch_list())
        reasons.append(f"torch {torch.__version__} is built for {built_for}, and not for it")
    if needs_kernels and (reason := cuda.why_not(device)) is not None:
        if ran_out(RuntimeError(reason)):
            raise RuntimeError(reason)
        why = reason.splitlines()[0]  # a compiler says more
        reasons.append(f"the fast decoder cannot run there, though a ComfyUI's own modules may (--comfyui): {why}")
    if reasons:
        raise NoDevice("; ".join(reasons))


def stored_in(path: Path) -> Stored:
    """The VAE.

    Raises:
        InvalidJob: it is damaged.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            config = (file.metadata() or {}).get("config", "")
        if len(config) > MOST_CONFIG_CHARACTERS:
            raise ValueError(f"its config has more than {MOST_CONFIG_CHARACTERS} characters")
        return Stored(safetensors.torch.load_file(path), config)
    except (safetensors.SafetensorError, ValueError) as error:
        raise InvalidJob(f"the VAE cannot be read: {error}") from error


def choice_of(job: Job) -> Choice:
    """Raises:
    InvalidJob: the format has no such thing.
    """
    params = job.params
    try:
        each = FORMATS[params.format]
        if not each.encoder.is_available():
            raise ValueError(f"{each.name} cannot be written here")
        return Choice(each, params.quality, bit_depth=params.bit_depth)
    except KeyError as error:
        raise InvalidJob(f"there is no format {params.format!r}") from error
    except ValueError as error:
        raise InvalidJob(str(error)) from error


def sound_of(path: Path | None) -> FileSound | None:
    """Raises:
    InvalidJob: there is a file, and no sound that can be read in it.
    """
    if path is None:
        return None
    with open(path, "rb") as file:
        if file.read(4) != FLAC:
            raise InvalidJob("the sound is no FLAC")
    try:
        sound = FileSound(Part(path))
    except (av.error.FFmpegError, ValueError) as error:
        raise InvalidJob(f"the sound cannot be read: {error}") from error
    return None if sound.is_silent else sound


def latent_of(job: Job, path: Path) -> torch.Tensor:
    """The latent, checked against what the job says before anything is allocated for it.

    Raises:
        InvalidJob: it is another one, is damaged, or holds what is no number.
    """
    params = job.params
    if path.stat().st_size > params.latent_bytes + HEADER_BYTES:
        raise InvalidJob(f"the latent has {path.stat().st_size} bytes, more than {params.latent_bytes}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            told = file.get_slice(LATENT_TENSOR)
            shape, dtype = tuple(told.get_shape()), told.get_dtype()
            if shape != params.shape or dtype != DTYPES[params.dtype]:
                raise InvalidJob(f"the latent is {dtype} {shape}, the job says {params.dtype} {params.shape}")
            latent = file.get_tensor(LATENT_TENSOR)
    except (safetensors.SafetensorError, KeyError, OSError) as error:
        raise InvalidJob(f"the latent cannot be read: {error}") from error
    if not math.isfinite(latent.sum(dtype=torch.float64).item()):
        raise InvalidJob("the latent holds NaN or infinity")
    return latent


def prompt_in(path: Path) -> dict[str, object]:
    """Prompt and workflow, as SaveLatent stores them beside a latent, for the video; what is no JSON is left out."""
    found: dict[str, object] = {}
    with safetensors.safe_open(path, "pt") as file:
        for key, text in (file.metadata() or {}).items():
            with contextlib.suppress(ValueError, RecursionError):
                found[key] = json.loads(text)
    return found


def denormalised(latent: torch.Tensor, family: str) -> torch.Tensor:
    """diffusers' latents as the VAE wants them; in float32, whatever they are in.

    Args:
        latent: (1, C, T, h, w).
        family: that its VAE is of.
    Raises:
        InvalidJob: that family's have another C, or are not known to be normalised.
    """
    if family not in MEAN:
        raise InvalidJob(f"normalised latents are taken of {', '.join(MEAN)}, and these are of {family!r}")
    mean, std = (torch.tensor(each[family]).view(1, -1, 1, 1, 1) for each in (MEAN, STD))
    if latent.shape[1] != mean.shape[1]:
        raise InvalidJob(f"normalised latents of {family} have {mean.shape[1]} channels, got {latent.shape[1]}")
    return latent.float() * std + mean


def ran_out(error: BaseException | None) -> bool:
    """Whether memory did, or it came of that."""
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in str(error).lower():
            return True
        error = error.__cause__
    return False
