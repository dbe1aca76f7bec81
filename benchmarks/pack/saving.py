"""Frames to save, a plain saver to compare with, and how far a saved file is from the frames it was made of."""

from __future__ import annotations

import os
import time
from fractions import Fraction

import av
import folder_paths
import numpy as np
import torch

# Luma weights of R, G and B. ITU-R BT.709-6, section 3; ITU-R BT.601-7, section 2.5.1.
MATRICES = {"bt709": (0.2126, 0.7152, 0.0722), "bt601": (0.299, 0.587, 0.114)}


class BenchClip:
    """Frames of a clip as an IMAGE; where they are to be larger, the clip mirrored side by side, where smaller, cut."""

    @classmethod
    def INPUT_TYPES(cls):
        sizes = {name: ("INT", {"max": 8192}) for name in ("width", "height", "frames")}
        return {"required": {"path": ("STRING", {}), **sizes}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "load"
    CATEGORY = "benchmarks"

    def load(self, path, width, height, frames):
        images = torch.empty(frames, height, width, 3)
        with av.open(path) as container:
            for i, frame in zip(range(frames), container.decode(video=0)):
                picture = frame.to_ndarray(format="rgb24")
                for axis, size in enumerate((height, width)):
                    pieces = [picture, np.flip(picture, axis)] * (size // picture.shape[axis] + 1)
                    picture = np.concatenate(pieces, axis).take(range(size), axis)
                images[i] = torch.from_numpy(picture) / 255
        if i + 1 < frames:
            raise ValueError(f"{path} has {i + 1} frames, expected at least {frames}")
        return (images,)


class BenchPeer:
    """A stock saver for an encoder that none has: PyAV's defaults, fed frame by frame as Save Video does."""

    @classmethod
    def INPUT_TYPES(cls):
        texts = {name: ("STRING", {}) for name in ("encoder", "pixels", "container", "options", "filename_prefix")}
        return {"required": {"images": ("IMAGE",), **texts, "fps": ("FLOAT", {"max": 120})}}

    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def save(self, images, encoder, pixels, container, options, filename_prefix, fps):
        file = f"{filename_prefix}.{container}"
        with av.open(os.path.join(folder_paths.get_output_directory(), file), "w") as output:
            stream = output.add_stream(encoder, rate=Fraction(round(fps * 1000), 1000))
            stream.height, stream.width = images.shape[1:3]
            stream.pix_fmt = pixels
            stream.options = dict(option.split("=") for option in options.split(",") if option)
            for image in images:
                codes = (image * 65535).clamp(0, 65535).numpy().astype(np.uint16)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(codes, "rgb48le").reformat(format=pixels)))
            began = time.perf_counter()
            output.mux(stream.encode(None))
        ended = time.perf_counter()
        saved = {"filename": file, "subfolder": "", "type": "output"}
        return {"ui": {"images": [saved], "flush_seconds": [ended - began]}}


class BenchPSNR:
    """PSNR of a limited range file of even size, decoded by PyAV.

    `luma`: of the luma codes, against the frames' own luma by the file's matrix, not rounded. `rgb`, of 4:2:0 and where
    asked for: of the picture that a viewer gets who knows the matrix; chroma is read as sited left and as sited in the
    middle, and the better counts.
    """

    @classmethod
    def INPUT_TYPES(cls):
        required = {"images": ("IMAGE",), "path": ("STRING", {}), "matrix": (list(MATRICES),)}
        return {"required": required, "optional": {"rgb": ("BOOLEAN", {"default": True})}}

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(self, images, path, matrix, rgb=True):
        weights = torch.tensor(MATRICES[matrix])
        errors = {"luma": 0.0, "left": 0.0, "middle": 0.0}
        with av.open(path) as container:
            frames = 0
            for frame, image in zip(container.decode(video=0), images):
                frames += 1
                luma, *chroma = (plane for plane in planes(frame))
                errors["luma"] += ((luma - (16 + 219 * (image @ weights))) / 255).square().mean().item()
                for siting in ("left", "middle") if rgb else ():
                    picture = to_rgb(luma, *(doubled(plane, siting) for plane in chroma), weights)
                    errors[siting] += (picture - image).square().mean().item()
        if frames != len(images):
            raise ValueError(f"{path} has {frames} frames, expected {len(images)}")
        decibels = {name: float(-10 * np.log10(error / frames)) for name, error in errors.items() if error}
        told = {"luma": decibels["luma"]} | ({"rgb": max(decibels["left"], decibels["middle"])} if rgb else {})
        return {"ui": {"psnr": [told]}}


def planes(frame: av.VideoFrame) -> list[torch.Tensor]:
    """Y, U and V as 8-bit codes, in float32 so that those of 10 bits are in between."""
    depth = frame.format.components[0].bits
    kind = np.uint16 if depth > 8 else np.uint8
    rows = (np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes)
    return [torch.from_numpy(plane.astype(np.float32)) / 2 ** (depth - 8) for plane in rows]


def doubled(plane: torch.Tensor, siting: str) -> torch.Tensor:
    """Chroma at the size of luma, by linear interpolation; from top to bottom it is always sited in the middle."""
    both = torch.nn.functional.interpolate(
        plane[None, None], scale_factor=(2, 2 if siting == "middle" else 1), mode="bilinear"
    )[0, 0]
    if siting == "middle":
        return both
    after = torch.cat((both[:, 1:], both[:, -1:]), dim=1)
    return torch.stack((both, (both + after) / 2), dim=-1).flatten(1)


def to_rgb(luma, blue, red, weights) -> torch.Tensor:
    luma, blue, red = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    r = luma + 2 * (1 - weights[0]) * red
    b = luma + 2 * (1 - weights[2]) * blue
    g = (luma - weights[0] * r - weights[2] * b) / weights[1]
    return torch.stack((r, g, b), dim=-1).clamp(0, 1)
