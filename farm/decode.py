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
from pathlib import Path

import av
import psutil
import safetensors
import safetensors.torch
import torch

from ..pipeline import engine
from ..pipeline.decoders.away import Away
from ..pipeline.decoders.fast import cuda, plan, weights
from ..pipeline.decoders.fast.network import WanDecoder
from ..pipeline.report import Report
from ..pipeline.sinks.formats import FORMATS, Choice
from ..pipeline.sinks.video_file import VideoFileSink, VideoOptions
from ..pipeline.sources.file_sound import FileSound
from ..pipeline.sources.part import Part
from ..pipeline.video_spec import VideoSpec
from .messages import HEADER_BYTES, InvalidJob, Job
from .work import Made, OutOfMemory, Work

FAMILIES = ("Wan 2.1", "Wan 2.2")
# As what weights and activations are kept.
DTYPES = {"cuda": torch.float16, "cpu": torch.float32}
# See nodes/families/wan.py.
LARGEST_DIFFERENCE = 0.03
# How one begins. Nothing else is opened: a playlist, say, could name other files of this machine.
FLAC = b"fLaC"
LATENT_TENSOR = "latent_tensor"
FRAMES_PER_STEP = 4
SLOTS = 4
# Of a plan that ran out of memory: how much of what was tried is tried next.
LESS = 0.75
WARM = 2


class Decoder:
    """Decodes on one device, one video at a time, and keeps the last VAEs there.

    Args:
        device: "cpu" or "cuda".
    Raises:
        RuntimeError: the fast decoder cannot run there.
    """

    def __init__(self, device: str):
        self.device = torch.device(device)
        if self.device.type == "cuda" and (reason := cuda.why_not(self.device)) is not None:
            raise RuntimeError(f"this GPU cannot decode: {reason}")
        self._warm: OrderedDict[str, weights.Weights] = OrderedDict()

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

    def __call__(self, work: Work) -> Made:
        """Decode and encode.

        Raises:
            InvalidJob: nobody can decode this.
            OutOfMemory: it does not fit here.
            Otherwise: what `engine.run` raises, and what `check` does.
        Stream: on the caller's thread and its current stream; nothing is left running.
        """
        job = work.job
        choice = choice_of(job)  # before anything is read
        audio = sound_of(work.audio)
        latent = latent_of(job, work.latent)
        model = self._weights(job, work.vae)
        if latent.shape[1] != model.latent[0].shape[1]:
            raise InvalidJob(f"the VAE takes latents of {model.latent[0].shape[1]} channels, got {latent.shape[1]}")
        below = None
        while True:
            try:
                return self._decode(work, choice, audio, latent, model, below)
            except (torch.OutOfMemoryError, engine.DecodeError, MemoryError) as error:
                if not _ran_out(error):
                    raise
                needed = getattr(error, "needed", None)
                last = below
            self._make_room()
            # Once more in smaller bands; after that it is for others.
            if last is not None or needed is None:
                raise OutOfMemory(f"{job.params.shape[3] * job.params.shape[4]} latent pixels do not fit")
            below = int(needed * LESS)

    def _decode(
        self,
        work: Work,
        choice: Choice,
        audio: FileSound | None,
        latent: torch.Tensor,
        model: weights.Weights,
        below: int | None,
    ) -> Made:
        _, _, latent_frames, height, width = latent.shape
        scale = 8 * model.patch
        spec = VideoSpec(FRAMES_PER_STEP * (latent_frames - 1) + 1, scale * height, scale * width, self.device)
        options = VideoOptions(work.job.params.rate, choice, audio, metadata=prompt_in(work.latent))
        chosen = self._plan(model, latent, below)
        away, report, began = Away(self.device), Report(), time.monotonic()

        def decode(submit: engine.Submit) -> None:
            decoder = WanDecoder(model, chosen.bands, away)
            on_device = latent.to(self.device, decoder.dtype)
            for t in range(latent_frames):
                submit(decoder.step(on_device[:, :, t], last=t == latent_frames - 1))

        try:
            engine.run(
                decode,
                spec,
                [VideoFileSink(work.target, options)],
                slots=SLOTS,
                frames_per_slot=FRAMES_PER_STEP,
                check=work.check,
                progress=lambda frames: work.progress(frames, spec.frames),
                report=report,
            )
        except Exception as error:
            error.needed = chosen.needed
            raise
        finally:
            away.close()
        return Made(spec.frames, spec.width, spec.height, time.monotonic() - began, report.text().splitlines()[0])

    def _plan(self, model: weights.Weights, latent: torch.Tensor, below: int | None) -> plan.Plan:
        free = self.memory_mb()[0] << 20
        on_cuda = self.device.type == "cuda"
        main = psutil.virtual_memory().available if on_cuda else 0
        there = plan.Room(free, free, main)
        return plan.choose(
            lambda bands: plan.of(model, *latent.shape[-2:], bands, joins=True), there, latent.shape[2], below
        )

    def _weights(self, job: Job, path_of: Callable[[], Path]) -> weights.Weights:
        key, vae = job.vae.sha256, job.vae
        if vae.family not in FAMILIES:
            raise InvalidJob(f"VAEs of {vae.family!r} cannot be decoded here; {', '.join(FAMILIES)} can")
        if vae.verdict is not None and not vae.verdict <= LARGEST_DIFFERENCE:
            raise InvalidJob(f"with this VAE the frames differ from the stock decoder's, by {vae.verdict:.3g} (RMS)")
        if key not in self._warm:
            while len(self._warm) >= WARM:
                self._warm.popitem(last=False)
                self._make_room()
            try:
                state = safetensors.torch.load_file(path_of())
                self._warm[key] = weights.load(state, self.device, DTYPES[self.device.type])
            except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
                if _ran_out(error):
                    raise OutOfMemory("the VAE does not fit") from error
                raise InvalidJob(f"the VAE cannot be read: {error}") from error
        self._warm.move_to_end(key)
        return self._warm[key]

    def _make_room(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def choice_of(job: Job) -> Choice:
    """Raises:
    InvalidJob: the format has no such thing.
    """
    params = job.params
    try:
        each = FORMATS[params.format]
        if params.do_scaling:
            raise ValueError("normalised latents (do_scaling) are not taken yet")
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
            if shape != params.shape or dtype != {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[params.dtype]:
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


def _ran_out(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in str(error).lower():
            return True
        error = error.__cause__
    return False
