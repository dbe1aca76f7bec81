"""Latents into a file by the VAE's own modules, of a ComfyUI on this machine: the stock pixels, bit for bit.

Of that ComfyUI only the models and the loading of their weights are used: no server, no nodes, no packs, no settings.
What it chooses for this device, such as bfloat16, is chosen here. How each family is streamed is in
pipeline/decoders/families, for the nodes too.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from ..pipeline import engine
from ..pipeline.decoders import families
from ..pipeline.decoders.away import Away
from ..pipeline.decoders.families import facts
from ..pipeline.decoders.families.recipe import Fitted, Recipe
from ..pipeline.decoders.fast.plan import Room
from ..pipeline.decoders.histories import Histories
from ..pipeline.sinks.formats import Choice
from ..pipeline.sources.file_sound import FileSound
from ..pipeline.video_spec import VideoSpec
from .decode import SLOTS, Decoder, Stored, ran_out
from .messages import InvalidJob, Job
from .work import Made, NoComfyUI, Work, may_pass, named

# Of a frame; that of the largest latent of Wan 2.2.
MOST_PIXELS = 1 << 26
# The sum of all numbers in a list of a model's blocks; of published ones it is below 100.
MOST_BLOCKS = 1000
# A file may lack the encoder, and whatever ComfyUI's model has beside: so much more than is in it a model may have.
MOST_TIMES, SPARED = 4, 100_000_000
# Of main memory that is free; the rest is for what else goes on meanwhile, such as the encoder.
MAIN_MEMORY_SHARE = 0.8
# An error that names one of them may be of a GPU in a bad state.
OF_THE_DEVICE = ("cuda", "cudnn", "cublas")


@dataclass(frozen=True, slots=True)
class Stock:
    """A `comfy.sd.VAE`, and what it is."""

    vae: object
    family: families.Family

    @property
    def channels(self) -> int:
        """Of a latent."""
        return self.vae.latent_channels

    def check(self, job: Job) -> None:
        """Raises:
        InvalidJob: it is of another family than the job says.
        """
        named = job.vae.family
        # What one ComfyUI decodes in its own loop, another one may give a buffer.
        if named != self.family.name and families.CHUNKED.name not in (named, self.family.name):
            raise InvalidJob(f"the VAE is of {self.family.name}, and the job says {named!r}")

    def spec(self, latent: torch.Tensor, device: torch.device) -> VideoSpec:
        """Of the frames that it makes of a latent.

        Raises:
            InvalidJob: that is not known, or more than may be.
        """
        size = self.family.size(self.vae, latent)
        if size is None or min(size) < 1:
            raise InvalidJob(f"it is not known what {self.family.name} makes of a latent {tuple(latent.shape)}")
        if math.prod(size[1:]) > MOST_PIXELS:
            raise InvalidJob(f"frames of {size[2]}x{size[1]} are larger than {MOST_PIXELS} pixels")
        zero_centred, clamped = facts.output_range(self.vae)
        return VideoSpec(*size, device, zero_centred, clamped)


class ExactDecoder(Decoder):
    """Decodes exactly, on one device.

    Args:
        device: "cpu" or "cuda".
        comfyui: the folder of a ComfyUI, whose requirements this Python has.
    Raises:
        NoDevice: the device is not there, or torch cannot use it.
        NoComfyUI: the ComfyUI is not there, or cannot be loaded.
        RuntimeError, OSError, MemoryError: it cannot for now.
    """

    decoders = ("exact",)

    def __init__(self, device: str, comfyui: Path):
        super().__init__(device, needs_kernels=False)
        if not (comfyui / "comfy" / "sd.py").is_file():
            raise NoComfyUI(f"there is no ComfyUI in {comfyui}: give the folder that has comfy/sd.py in it")
        # Started as a script, Python looks beside it first, and this folder has modules with names of ComfyUI's.
        sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]
        sys.path.append(str(comfyui))
        try:
            import comfy.cli_args

            comfy.cli_args.args.cpu = self.device.type == "cpu"
            import comfy.model_management
            import comfy.sd
        except Exception as error:
            if may_pass(error):
                raise
            how = "is this the Python that it runs on?"
            raise NoComfyUI(f"the ComfyUI in {comfyui} cannot be loaded: {named(error)}; {how}") from error
        self._comfy = comfy

    def memory_mb(self) -> tuple[int, int]:
        """(free, all): VAEs that are warm can go, and what a job needs is with its own."""
        free, total = super().memory_mb()
        return free + (sum(self._loaded_bytes()) >> 20), total

    def _loaded_bytes(self) -> list[int]:
        """On the GPU, of each that is warm; any thread may ask."""
        models = list(self._warm.values()) if self.device.type == "cuda" else []
        return [each.vae.patcher.loaded_size() for each in models]

    def _check(self, job: Job) -> None:
        """All that can be said is said of the VAE, once it is there."""

    def _load(self, stored: Stored) -> Stock:
        given, metadata = set(stored.tensors), {"config": stored.config} if stored.config else None
        try:
            config = json.loads(stored.config or "{}")
            said = config.get("vae_class")
            self._check_size(stored.tensors, metadata, config.get("vae") or {})
            vae = self._comfy.sd.VAE(sd=stored.tensors, metadata=metadata)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError) as error:
            # Of names that look like a VAE's, and are not all there.
            raise ValueError(f"{type(error).__name__}: {error}") from error
        except RuntimeError as error:
            if "loading state_dict" in str(error) or isinstance(error, RecursionError):
                raise ValueError(str(error)) from error
            raise
        if vae.first_stage_model is None:
            raise ValueError("it is none that this ComfyUI knows")
        family, model = families.of(vae), facts.model_name(vae)
        if family is None:
            raise ValueError(f"{model} is none that decodes videos, as far as is known here")
        if said is not None:  # by a ComfyUI, of all of its model
            if said != model:
                raise ValueError(f"this ComfyUI makes {model} of it, and the one that it came from {said}")
            if not vae.first_stage_model.state_dict().keys() <= given:
                raise ValueError("some of its tensors are missing")
        if (reason := facts.why_no_frames(vae)) is not None:
            raise ValueError(reason)
        return Stock(vae, family)

    def _check_size(self, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None, config: dict) -> None:
        """Whether the model that a file asks for is one of its size, before memory is taken for it.

        Raises:
            ValueError: it is larger.
            Whatever else its making raises.
        """
        if any(_sum(value) > MOST_BLOCKS for value in config.values() if isinstance(value, list)):
            raise ValueError("the model has more layers than may be")
        try:
            with torch.device("meta"):
                empty = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
                model = self._comfy.sd.VAE(sd=empty, metadata=metadata).first_stage_model
        except RuntimeError as error:
            if "meta" in str(error):  # one that is made with data; its size is always the same
                return
            raise
        there = sum(tensor.numel() for tensor in tensors.values())
        if model is not None and sum(weight.numel() for weight in model.parameters()) > MOST_TIMES * there + SPARED:
            raise ValueError("the model is larger than its file")

    def _slots(self, model: Stock, below: int | None) -> tuple[int, int]:
        return (SLOTS, model.family.recipe.frames_per_slot) if below is None else (2, 1)

    def _decode(
        self,
        work: Work,
        choice: Choice,
        audio: FileSound | None,
        latent: torch.Tensor,
        model: Stock,
        below: int | None,
    ) -> Made:
        try:
            return super()._decode(work, choice, audio, latent, model, below)
        except engine.DecodeError as error:
            if not ran_out(error) and not _is_of_the_device(error) and self._decodes(model):
                raise InvalidJob(
                    f"{model.family.name} cannot decode a latent {tuple(latent.shape)}: {error}"
                ) from error
            raise

    def _way(
        self, model: Stock, latent: torch.Tensor, below: int | None, until_then: contextlib.ExitStack
    ) -> Callable[[engine.Submit], None]:
        vae, family = model.vae, model.family
        away = Away(vae.device)
        until_then.callback(away.close)

        def decode(submit: engine.Submit) -> None:
            with torch.inference_mode():
                recipe = family.recipe
                fitted = recipe.fitted(vae, latent, family.size(vae, latent), lambda: self._room(model), below is None)
                needed = self._needed = int(facts.estimate(vae, latent) if fitted.needed is None else fitted.needed)
                self._comfy.model_management.load_models_gpu(
                    [vae.patcher], memory_required=needed, force_full_load=vae.disable_offload
                )
                if not fitted.keeps and vae.device.type == "cuda":
                    torch.cuda.empty_cache()
                try:
                    until_then.enter_context(recipe.held(vae))
                except ValueError:  # this ComfyUI's model has another loop than is known
                    recipe, fitted = Recipe(), Fitted(needed)
                histories = None if fitted.keeps else Histories(away)
                recipe.stream(vae, latent.to(vae.device, vae.vae_dtype), submit, histories, fitted.pauses)

        return decode

    def _room(self, model: Stock) -> Room:
        """Beside the VAE itself; the others that are warm can go."""
        emptied = (self.memory_mb()[0] << 20) - model.vae.patcher.model_size()
        free = emptied - sum(self._loaded_bytes()) + model.vae.patcher.loaded_size()
        return Room(free, emptied, int(psutil.virtual_memory().available * MAIN_MEMORY_SHARE))

    def _decodes(self, model: Stock) -> bool:
        """Whether it does with a latent that nothing is wrong with."""
        vae = model.vae
        try:
            with torch.inference_mode():
                vae.first_stage_model.decode(
                    torch.zeros(1, model.channels, 2, 2, 2).to(vae.device, vae.vae_dtype)
                ).sum()
                if vae.device.type == "cuda":
                    torch.cuda.synchronize()
            return True
        except Exception:
            return False

    def _make_room(self) -> None:
        self._comfy.model_management.unload_all_models()
        super()._make_room()


def _sum(value: object) -> float:
    """Of all numbers in it."""
    if isinstance(value, (list, dict)):
        return sum(map(_sum, value.values() if isinstance(value, dict) else value))
    return abs(value) if isinstance(value, (int, float)) else 0


def _is_of_the_device(error: BaseException | None) -> bool:
    while error is not None:
        if any(word in str(error).lower() for word in OF_THE_DEVICE):
            return True
        error = error.__cause__
    return False
