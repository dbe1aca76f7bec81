"""How far a saved file is from the frames it was made of."""

from __future__ import annotations

import av
import numpy as np
import torch

# Luma weights of R, G and B. ITU-R BT.709-6, section 3; ITU-R BT.601-7, section 2.5.1.
MATRICES = {"bt709": (0.2126, 0.7152, 0.0722), "bt601": (0.299, 0.587, 0.114)}


class BenchPSNR:
    """PSNR of a 4:2:0, limited range file of even size, decoded by PyAV.

    `luma`: of the luma codes, against the frames' own luma by the file's matrix, not rounded. `rgb`: of the picture
    that a viewer gets who knows the matrix; chroma is read as sited left and as sited in the middle, and the better
    counts.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",), "path": ("STRING", {}), "matrix": (list(MATRICES),)}}

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(self, images, path, matrix):
        weights = torch.tensor(MATRICES[matrix])
        errors = {"luma": 0.0, "left": 0.0, "middle": 0.0}
        with av.open(path) as container:
            frames = 0
            for frame, image in zip(container.decode(video=0), images):
                frames += 1
                luma, *chroma = (plane for plane in planes(frame))
                errors["luma"] += ((luma - (16 + 219 * (image @ weights))) / 255).square().mean().item()
                for siting in ("left", "middle"):
                    picture = to_rgb(luma, *(doubled(plane, siting) for plane in chroma), weights)
                    errors[siting] += (picture - image).square().mean().item()
        if frames != len(images):
            raise ValueError(f"{path} has {frames} frames, expected {len(images)}")
        decibels = {name: float(-10 * np.log10(error / frames)) for name, error in errors.items()}
        return {"ui": {"psnr": [{"luma": decibels["luma"], "rgb": max(decibels["left"], decibels["middle"])}]}}


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
