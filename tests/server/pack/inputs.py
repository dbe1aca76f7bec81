"""Latents and audio for the tests, the same for the same seed."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import comfy.nested_tensor
import numpy as np
import torch
from comfy_api.latest import Input, Types


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


class Any:
    """A value for an input of any type, given as JSON; as switches and other nodes of many packs give them."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("STRING", {})}}

    RETURN_TYPES = ("*",)
    FUNCTION = "make"
    CATEGORY = "_tests"

    def make(self, value):
        return (json.loads(value),)


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
                "fault": (["none", "no waveform", "no sample rate"],),
            },
        }

    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "make"
    CATEGORY = "_tests"

    def make(self, seconds, sample_rate=44100, channels=2, fault="none"):
        t = torch.arange(round(seconds * sample_rate), dtype=torch.float64) / sample_rate
        tones = [(0.3 * torch.sin(2 * math.pi * 220 * (channel + 1) * t)).float() for channel in range(channels)]
        audio = {"waveform": torch.stack(tones)[None], "sample_rate": sample_rate}
        if fault == "no waveform":
            del audio["waveform"]
        elif fault == "no sample rate":
            del audio["sample_rate"]
        return (audio,)


class LazyAudio:
    """A tone of 400 Hz as AUDIO that is no dict and is read when it is asked for, as other packs give it.

    Its sample rate is numpy's, and what its IS_CHANGED gives JSON cannot hold.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seconds": ("FLOAT", {})}}

    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "make"
    CATEGORY = "_tests"

    @classmethod
    def IS_CHANGED(cls, seconds):
        return b"\xff"

    def make(self, seconds):
        return (_Lazy(seconds),)


class _Lazy(Mapping):
    def __init__(self, seconds):
        self._seconds = seconds

    def __getitem__(self, key):
        tone = np.sin(2 * math.pi * 400 * np.arange(int(self._seconds * 8000)) / 8000) * 0.3
        return {"waveform": torch.from_numpy(tone)[None, None], "sample_rate": np.int64(8000)}[key]

    def __iter__(self):
        return iter(("waveform", "sample_rate"))

    def __len__(self):
        return 2


class BadLatent:
    """What no sampler makes, as LATENT."""

    FAULTS = {
        "no dict": lambda: [1, 2],
        "no samples": dict,
        "no tensor": lambda: {"samples": "x"},
        "whole numbers": lambda: {"samples": torch.zeros(1, 16, 2, 4, 4, dtype=torch.int64)},
        "rank 2": lambda: {"samples": torch.zeros(16, 4)},
        "rank 7": lambda: {"samples": torch.zeros(1, 16, 2, 4, 4, 1, 1)},
        "no frames": lambda: {"samples": torch.zeros(1, 16, 0, 4, 4)},
        "no height": lambda: {"samples": torch.zeros(1, 16, 2, 0, 4)},
        # Stands for 64 TB, and takes 4 bytes.
        "endless": lambda: {"samples": torch.zeros(1).expand(1, 16, 10**6, 10**3, 10**3)},
        "nan": lambda: {"samples": torch.full((1, 16, 2, 4, 4), math.nan)},
        "infinite": lambda: {"samples": torch.full((1, 16, 2, 4, 4), math.inf)},
    }

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"fault": (list(cls.FAULTS),)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"
    CATEGORY = "_tests"

    def make(self, fault):
        return (self.FAULTS[fault](),)


class BadVideo:
    """What no node makes, as VIDEO: frames, rate or sound that cannot be."""

    FRAMES = {
        "no tensor": lambda: [[0.0]],
        "rank 3": lambda: torch.rand(4, 8, 8),
        "no frames": lambda: torch.rand(0, 8, 8, 3),
        "no width": lambda: torch.rand(4, 8, 0, 3),
        "one channel": lambda: torch.rand(4, 8, 8, 1),
        "whole numbers": lambda: torch.zeros(4, 8, 8, 3, dtype=torch.int64),
        "nan": lambda: torch.full((4, 8, 8, 3), math.nan),
        "infinite": lambda: torch.full((4, 8, 8, 3), -math.inf),
    }
    RATES = {"rate 0": 0, "rate -1": -1, "rate nan": math.nan, "rate infinite": math.inf, "rate of text": "x"}

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"fault": ([*cls.FRAMES, *cls.RATES, "sound"],)}}

    RETURN_TYPES = ("VIDEO",)
    FUNCTION = "make"
    CATEGORY = "_tests"

    def make(self, fault):
        frames = self.FRAMES.get(fault, lambda: torch.rand(4, 8, 8, 3))()
        audio = {"waveform": "x", "sample_rate": -1} if fault == "sound" else None
        return (_Video(frames, self.RATES.get(fault, 16), audio),)


class _Video(Input.Video):
    def __init__(self, frames, rate, audio):
        self._components = Types.VideoComponents(images=frames, frame_rate=rate, audio=audio)

    def get_components(self):
        return self._components

    def get_dimensions(self):
        return (8, 8)

    # The base class demands these two; the saver of this pack uses neither.
    def save_to(self, path, **how):
        raise NotImplementedError("this VIDEO is only read from")

    def as_trimmed(self, **how):
        raise NotImplementedError("this VIDEO is only read from")


class Patches:
    """An IMAGE of flat squares whose colours change places with every frame; with alpha, as a fourth channel.

    `waves` further rows below them are smooth and move, with 48 rows and 64 columns to a wave and 9 frames to a turn.
    """

    PATCH = 16
    COLOURS = json.loads(Path(__file__).with_name("colours.json").read_text())

    @classmethod
    def INPUT_TYPES(cls):
        sizes = {name: ("INT", {"default": 1}) for name in ("frames", "height", "width")}
        return {
            "required": sizes,
            "optional": {"alpha": ("BOOLEAN", {"default": False}), "waves": ("INT", {"default": 0})},
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "make"
    CATEGORY = "_tests"

    def make(self, frames, height, width, alpha=False, waves=0):
        rows, columns = torch.arange(height) // self.PATCH, torch.arange(width) // self.PATCH
        place = rows[:, None] * -(-width // self.PATCH) + columns
        number = place + torch.arange(frames).view(-1, 1, 1)
        image = torch.tensor(self.COLOURS)[number % len(self.COLOURS)]
        image = torch.cat((image, (number % 5)[..., None] / 4), dim=-1)
        image = torch.cat((image, self._waves(frames, waves, width)), dim=1)
        return (image if alpha else image[..., :3],)

    def _waves(self, frames, height, width):
        turn = torch.arange(frames).view(-1, 1, 1) / 9
        down, across = torch.arange(height).view(-1, 1) / 48, torch.arange(width) / 64
        waves = torch.broadcast_tensors(across + turn, down + turn, across + down - turn, across - down)
        red, green, blue, alpha = (torch.sin(2 * math.pi * wave) for wave in waves)
        return torch.stack((0.5 + 0.4 * red, 0.5 + 0.4 * green, 0.5 + 0.4 * blue, 0.8 + 0.15 * alpha), dim=-1)
