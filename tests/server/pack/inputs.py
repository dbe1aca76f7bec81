"""Latents and audio for the tests, the same for the same seed."""

import math

import comfy.nested_tensor
import torch


class Latent:
    """Normal noise (batch, channels, latent_frames, height, width); latent_frames 0 makes an image latent."""

    @classmethod
    def INPUT_TYPES(cls):
        sizes = {
            name: ("INT", {"default": 0}) for name in ("batch", "channels", "latent_frames", "height", "width", "seed")
        }
        return {"required": sizes, "optional": {"nested": ("BOOLEAN", {"default": False})}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"
    CATEGORY = "_tests"

    def make(self, batch, channels, latent_frames, height, width, seed, nested=False):
        generator = torch.Generator().manual_seed(seed)
        time = [latent_frames] if latent_frames else []
        samples = torch.randn([batch, channels, *time, height, width], generator=generator)
        if nested:
            # As LTX-AV and the like make them: video first, audio second.
            samples = comfy.nested_tensor.NestedTensor([samples, torch.randn([batch, 8, 25, 16], generator=generator)])
        return ({"samples": samples},)


class CropLatent:
    """The first frames and the top left corner of a video latent."""

    @classmethod
    def INPUT_TYPES(cls):
        sizes = {name: ("INT", {"default": 1}) for name in ("latent_frames", "height", "width")}
        return {"required": {"samples": ("LATENT",), **sizes}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "crop"
    CATEGORY = "_tests"

    def crop(self, samples, latent_frames, height, width):
        return ({"samples": samples["samples"][:, :, :latent_frames, :height, :width].clone()},)


class Audio:
    """A tone per channel; `fault` makes it a dict that no node should accept."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"seconds": ("FLOAT", {})},
            "optional": {
                "sample_rate": ("INT", {"default": 44100}),
                "channels": ("INT", {"default": 2}),
                "fault": (["none", "no waveform", "no sample rate", "no samples"],),
            },
        }

    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "make"
    CATEGORY = "_tests"

    def make(self, seconds, sample_rate=44100, channels=2, fault="none"):
        t = torch.arange(round(seconds * sample_rate)) / sample_rate
        tones = [0.3 * torch.sin(2 * math.pi * 220 * (channel + 1) * t) for channel in range(channels)]
        audio = {"waveform": torch.stack(tones)[None], "sample_rate": sample_rate}
        if fault == "no waveform":
            del audio["waveform"]
        elif fault == "no sample rate":
            del audio["sample_rate"]
        elif fault == "no samples":
            audio["waveform"] = audio["waveform"][..., :0]
        return (audio,)
