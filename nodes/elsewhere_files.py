"""What leaves for a decode elsewhere: whether it can, and the files that it is made of.

A latent file is what SaveLatent writes, with the prompt and the workflow in it, so that who has nothing else can resume
from it. A VAE is its weights as one safetensors file, written once for each VAE that was loaded.
"""

from __future__ import annotations

import json
import math
import threading
import uuid
import weakref
from fractions import Fraction
from pathlib import Path

import av
import safetensors.torch
import torch

from ..pipeline.decoders import families as known
from ..pipeline.decoders.families import facts
from ..pipeline.sinks.audio import Audio, AudioTrack, CleanSound
from ..pipeline.text import Text
from . import families, rescue
from .comfyui import server, vaes
from .families import wan

# Beside the latent itself: farm/messages.py refuses more.
MOST_METADATA_BYTES = 512 * 1024
# Of the fast decoder, for each pixel of a frame: in the smallest bands, with what they remember in main memory. 720p
# takes 1.7 GB then, and 8.4 whole; see docs/decoding.md.
LEAST_BYTES = 1800
MOST_NEED_MB = 32_000
# That a job can have.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# By the VAE's module, with what it says of its model.
_written: weakref.WeakKeyDictionary[torch.nn.Module, tuple[Path, str]] = weakref.WeakKeyDictionary()
_writing = threading.Lock()


def why_not(vae, samples: dict) -> str | None:
    """Why this latent cannot be decoded elsewhere, whatever there is; None if it can.

    Raises:
        ValueError: it cannot be decoded at all, see `families.check`.
    """
    families.check(vae, samples)
    family = known.of(vae)
    if family is None:
        return Text(
            "only VAEs of %families% are decoded elsewhere, and this is %family%",
            families=", ".join(each.name for each in (*known.FAMILIES, *known.late.FAMILIES)),
            family=type(getattr(vae, "first_stage_model", vae)).__name__,
        )
    latent = vaes.latent_of(samples)
    if latent.ndim != 5 or latent.shape[:2] != (1, vae.latent_channels):
        return Text(
            "only one video at a time is decoded elsewhere, and the latent is %shape%", shape=str(tuple(latent.shape))
        )
    if vae.patcher.patches:
        return Text("the VAE's weights are patched")
    if facts.is_wrapped(facts.decoder_of(vae)):
        return Text("another node or pack replaced the VAE's decoder")
    if family.size(vae, latent) is None:
        return facts.UNKNOWN
    return vaes.why_not_known(vae, family.recipe.into_buffer)


def decoder(vae) -> str:
    """What a worker has to have: "exact", a ComfyUI; or "auto", which the fast decoder does as well."""
    from ..farm.messages import FAST_FAMILIES

    is_wrong = isinstance(wan.verdict(vae), str)
    return "auto" if known.of(vae).name in FAST_FAMILIES and not is_wrong else "exact"


def write_latent(samples: dict, path: Path) -> Path:
    """The latent, (1, C, T, h, w), as SaveLatent writes it."""
    latent = vaes.latent_of(samples).detach().cpu().contiguous()
    latent = latent if latent.dtype in DTYPES else latent.float()
    metadata = rescue.metadata()
    if metadata and sum(map(len, (*metadata, *metadata.values()))) > MOST_METADATA_BYTES:
        metadata = None
    rescue.save_latent(latent, path, metadata)
    return path


def write_vae(vae) -> Path:
    """The VAE's weights, as its module holds them, and what a ComfyUI has to know to make the same VAE of them.

    The same file for as long as the VAE lives, and no node sets it otherwise.
    """
    module = vae.first_stage_model
    with _writing:
        family = known.of(vae)
        config = json.dumps({"vae_class": facts.model_name(vae), **family.config(module)}, sort_keys=True)
        path, written = _written.get(module, (None, None))
        if written != config or not path.is_file():
            state = {name: tensor.detach().cpu().contiguous() for name, tensor in family.weights(module).items()}
            path = server.temp_folder() / f"vae_{uuid.uuid4().hex}.safetensors"
            # One text, where ComfyUI looks for it: of two the file could be another one each time.
            safetensors.torch.save_file(state, path, {"config": config})
            _written[module] = path, config
            weakref.finalize(module, path.unlink, missing_ok=True)
        return path


def write_sound(sound: Audio, seconds: Fraction, path: Path) -> Path:
    """As FLAC of 24 bits, no longer than the video."""
    with av.open(str(path), "w", format="flac") as container:
        track = AudioTrack(container, CleanSound(sound), "flac", min(seconds, sound.seconds), {})
        track.close()
    return path


def need_mb(vae, samples: dict) -> int:
    """The least memory that a worker must have free to begin; with more it decodes in larger parts, and faster."""
    family, latent = known.of(vae), vaes.latent_of(samples)
    size = family.size(vae, latent)
    weights = sum(tensor.nbytes for tensor in vae.first_stage_model.state_dict().values())
    in_bands = LEAST_BYTES * size[1] * size[2]
    needed = in_bands if decoder(vae) == "auto" else family.recipe.least_for(vae, latent, size)
    return min(MOST_NEED_MB, math.ceil((weights + needed) / 1e6))
