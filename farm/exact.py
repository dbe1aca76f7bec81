"""Latents into a file by the VAE's own modules, of a ComfyUI on this machine: the stock pixels, bit for bit.

Of that ComfyUI only the models and the loading of their weights are used: no server, no nodes, no packs, no settings.
What it chooses for this device, such as bfloat16, is chosen here.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..pipeline import engine
from ..pipeline.decoders import exact
from ..pipeline.decoders.fast.network import unpatchify
from .decode import Decoder, check_family
from .messages import Job


@dataclass(frozen=True, slots=True)
class Stock:
    """A `comfy.sd.VAE` of Wan's."""

    vae: object

    @property
    def channels(self) -> int:
        """Of a latent."""
        return self.vae.latent_channels

    @property
    def scale(self) -> int:
        """Pixels of a frame for each of the latent, in a row."""
        return 16 if self.is_22 else 8

    @property
    def is_22(self) -> bool:
        return type(self.vae.first_stage_model).__module__ == "comfy.ldm.wan.vae2_2"


class ExactDecoder(Decoder):
    """Decodes exactly, on one device.

    Args:
        device: "cpu" or "cuda".
        comfyui: the folder of a ComfyUI, whose requirements this Python has.
    Raises:
        RuntimeError: there is none.
    """

    decoders = ("exact",)

    def __init__(self, device: str, comfyui: Path):
        super().__init__(device, needs_kernels=False)
        if not (comfyui / "comfy" / "sd.py").is_file():
            raise RuntimeError(f"there is no ComfyUI in {comfyui}")
        # Started as a script, Python looks beside it first, and this folder has modules with names of ComfyUI's.
        sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]
        sys.path.append(str(comfyui))
        import comfy.cli_args

        comfy.cli_args.args.cpu = self.device.type == "cpu"
        import comfy.model_management
        import comfy.sd

        self._comfy = comfy

    def _check(self, job: Job) -> None:
        check_family(job.vae.family)

    def _load(self, state: dict[str, torch.Tensor]) -> Stock:
        try:
            vae = self._comfy.sd.VAE(sd=state)
        except (LookupError, TypeError, AttributeError) as error:  # names that look like a VAE's, and are not all there
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if vae.first_stage_model is None:
            raise ValueError("it is none that this ComfyUI knows")
        loaded = Stock(vae)
        if not loaded.is_22 and type(vae.first_stage_model).__module__ != "comfy.ldm.wan.vae":
            raise ValueError("it is none of Wan's")
        return loaded

    def _way(
        self, model: Stock, latent: torch.Tensor, below: int | None, until_then: contextlib.ExitStack
    ) -> Callable[[engine.Submit], None]:
        vae = model.vae

        def decode(submit: engine.Submit) -> None:
            with torch.inference_mode():
                self._comfy.model_management.load_models_gpu(
                    [vae.patcher],
                    memory_required=vae.memory_used_decode(latent.shape, vae.vae_dtype),
                    force_full_load=vae.disable_offload,
                )
                module = vae.first_stage_model
                to_frames = (lambda output: unpatchify(output[0])) if model.is_22 else (lambda output: output[0])
                exact.decode(module, latent.to(vae.device, vae.vae_dtype), submit, module.decoder.head[-1], to_frames)

        return decode

    def _make_room(self) -> None:
        self._comfy.model_management.unload_all_models()
        super()._make_room()
