"""H.264, H.265 and AV1 by the encoder of an NVIDIA card."""

import logging
from fractions import Fraction
from typing import ClassVar, cast

import av
import torch

from ...pixels import PixelFormat
from .base import Encoder, Wanted, at, rate_factor
from .x264 import is_common_h264


class Nvenc(Encoder):
    """What its three codecs have in common."""

    crf_range = (1, 51)  # "cq"; 0 lets the driver choose
    depths: ClassVar = {"4:2:0": (8, 10)}
    takes_threads = False

    def options(self, wanted: Wanted, height: int, width: int, frames: int, threads: int) -> dict[str, str]:
        if wanted.quality == "lossless":
            rate = {"tune": "lossless"}
        else:
            rate = {"rc": "vbr", "cq": rate_factor(wanted, (15, 19, 25, 31)), "b": "0"}
        return rate | {"preset": at(wanted.speed, ("p7", "p5", "p3", "p1"))}

    def takes(self, pixels: PixelFormat) -> str:
        return "p010le" if pixels.bits == 10 else pixels.av_name

    def is_available(self) -> bool:
        return super().is_available() and torch.cuda.is_available() and self._opens()

    def _opens(self) -> bool:
        """Whether the driver and the card have it. Compute cards such as A100 and H100 have none."""
        context = cast(av.VideoCodecContext, av.CodecContext.create(self.name, "w"))
        context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
        context.time_base = Fraction(1, 16)
        try:
            context.open()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            logging.debug("async-frame-pipeline: %s cannot be used here: %s", self.name, error)
            return False
        return True


class NvencH264(Nvenc):
    name = "h264_nvenc"
    pixel_aspect = True
    depths: ClassVar = {"4:2:0": (8,)}

    def plays(self, wanted: Wanted) -> bool:
        return is_common_h264(wanted)


class NvencH265(Nvenc):
    name = "hevc_nvenc"
    pixel_aspect = True


class NvencAV1(Nvenc):
    name = "av1_nvenc"
    lossless = False
