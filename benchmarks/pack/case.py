"""A latent whose decode shows a natural clip, and the ways to decode and to save it."""

import importlib
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import comfy.ldm.wan.vae2_2
import comfy.model_management as model_management
import torch
from comfy_api.latest import InputImpl, Types

import nodes

from . import peers
from .measured import decoding, ours
from .trace import mark
from .wan import random_samples, random_vae


def natural_frames(path, frames, height, width):
    """(3, T, H, W) bfloat16 in [-1, 1] on the CPU, the clip played forwards and backwards."""
    with av.open(path) as container:
        pictures = [f.reformat(width, height, "rgb24").to_ndarray() for f in container.decode(video=0)]
    pictures += pictures[::-1]
    stacked = torch.stack([torch.from_numpy(pictures[i % len(pictures)]) for i in range(frames)])
    return stacked.permute(3, 0, 1, 2).to(torch.bfloat16).div(127.5).sub(1.0)


class Overlay:
    """Replaces the decoders' output by natural frames, wherever the decoder is in the clip, and marks where steps end.

    Only frames of the clip's size: tiles, and what is compared before the first use of the fast decoder, stay. Where
    the decoder is, is kept on the GPU: so a step that is replayed as a CUDA graph shows the frames that come next.
    """

    def __init__(self, vae, version, frames_cthw):
        self._pictures = frames_cthw.to(vae.device).contiguous()
        self._patchify = comfy.ldm.wan.vae2_2.patchify if version == "2.2" else (lambda pictures, patch_size: pictures)
        self._position = torch.zeros((), dtype=torch.long, device=vae.device)
        self._following = torch.arange(8, device=vae.device)  # more frames than any decoder puts out at a time
        self._hook = vae.first_stage_model.decoder.head[-1].register_forward_hook(self._replace)
        # The class, which nodes of other commits have too: --checkout measures those.
        self._fast = importlib.import_module("..pipeline.decoders.fast.network", decoding().__package__).WanDecoder
        self._step = self._fast.step
        self._fast.step = lambda decoder, *args, **kwargs: self._replace_step(self._step(decoder, *args, **kwargs))

    def _replace(self, module, args, output):
        pictures = self._patchify(self._next(output.shape[2])[None], patch_size=2)
        if pictures.shape != output.shape:
            return None
        output.mul_(0.0).add_(pictures)
        mark()
        return output

    def _replace_step(self, frames_cthw):
        # Of those without data, which only tell what memory a decode takes, none is shown.
        if frames_cthw.is_meta or frames_cthw.shape[2:] != self._pictures.shape[2:]:
            return frames_cthw
        frames_cthw.mul_(0.0).add_(self._next(frames_cthw.shape[1]))  # float32, as they were
        mark()
        return frames_cthw

    def _next(self, frames):
        shown = (self._position + self._following[:frames]) % self._pictures.shape[1]
        self._position += frames
        return self._pictures.index_select(1, shown)

    def restart(self):
        self._position.zero_()

    def shows(self, frames_thwc):
        """Whether an IMAGE is of the clip."""
        pictures = self._pictures[:, : len(frames_thwc)].permute(1, 2, 3, 0).cpu().float()
        return torch.allclose(frames_thwc.cpu().float(), pictures / 2 + 0.5, atol=0.01)

    def remove(self):
        self._hook.remove()
        self._fast.step = self._step


class Case:
    """One VAE, one latent, and the ways to decode and save it.

    Args:
        clip: a path, or "" for what the random weights make of noise.
        kj: folder of ComfyUI-KJNodes.
    """

    def __init__(self, version, width, height, frames, clip="", vae=None, kj=""):
        self.vae = vae or random_vae(version)
        self.version, self._kj = version, kj
        self._samples = random_samples(version, width, height, frames)
        self._latents = self._samples["samples"].shape[2]
        self.overlay = Overlay(self.vae, version, natural_frames(clip, frames, height, width)) if clip else None
        self.folder = tempfile.TemporaryDirectory()

    @property
    def samples(self):
        return {"samples": self._samples["samples"][:, :, : self._latents]}

    def shorten(self, latents):
        """Only so many latent frames from now on; None for all."""
        self._latents = latents

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        if self.overlay:
            self.overlay.remove()
        self.folder.cleanup()

    def _restart(self):
        if self.overlay:
            self.overlay.restart()

    def path(self, name):
        return str(Path(self.folder.name) / f"{name}.mp4")

    def decoder_alone(self):
        """The model's own decode, weights loaded, result left on the GPU."""
        self._restart()
        vae, latent = self.vae, self.samples["samples"]
        model_management.load_models_gpu(
            [vae.patcher], memory_required=vae.memory_used_decode(latent.shape, vae.vae_dtype)
        )
        vae.first_stage_model.decode(latent.to(vae.device, vae.vae_dtype))

    def stock_image(self):
        self._restart()
        return nodes.VAEDecode().decode(self.vae, self.samples)[0]

    def tiled_image(self):
        self._restart()
        return nodes.VAEDecodeTiled().decode(self.vae, self.samples, 512, 64, 64, 8)[0]

    def our_image(self, decoder="exact"):
        self._restart()
        return decoding().decode_image(self.vae, self.samples, decoder)

    def save_stock(self, images):
        components = Types.VideoComponents(images=images, audio=None, frame_rate=Fraction(16))
        InputImpl.VideoFromComponents(components).save_to(self.path("stock"))

    def stock_file(self):
        self.save_stock(self.stock_image())

    def our_file(self, decoder="exact"):
        self._restart()
        video = ours("AsyncVAEDecodeToVideo").LatentVideo(self.vae, self.samples, Fraction(16), decoder=decoder)
        video.save_to(self.path("ours"))

    def images(self, ways=None):
        """Functions that decode and return the frames, by whose way it is: those of `ways`, or all."""
        images = {
            "stock": self.stock_image,
            "tiled": self.tiled_image,
            "channels_last": lambda: peers.module_frames(self.version, "channels_last", self.samples),
            "torch.compile": lambda: peers.module_frames(self.version, "torch.compile", self.samples),
            "kj": lambda: nodes.VAEDecode().decode(peers.kj_vae(self.version, self._kj), self.samples)[0],
            "fastvae": lambda: peers.fastvae_frames(self.version, self.samples),
            "exact": self.our_image,
            "fast": lambda: self.our_image("fast"),
        }
        return {way: image for way, image in images.items() if ways is None or way in ways}

    def files(self, ways=None):
        """The same that decode and save, of stock and ours."""
        files = {"stock": self.stock_file, "exact": self.our_file, "fast": lambda: self.our_file("fast")}
        return {way: file for way, file in files.items() if ways is None or way in ways}
