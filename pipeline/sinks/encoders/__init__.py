"""FFmpeg's encoders, a family in each file: all that one of them demands stands in its class.

To add one: a file with a subclass of `Encoder`, and its formats in ../formats.py.
"""

from .base import Encoder
from .exr import Exr
from .ffv1 import FFV1
from .gif import Gif
from .nvenc import NvencAV1, NvencH264, NvencH265
from .png import Png
from .prores import ProRes
from .svt_av1 import SvtAV1
from .vp9 import VP9
from .webp import WebP
from .x264 import X264
from .x265 import X265

__all__ = [
    "FFV1",
    "VP9",
    "X264",
    "X265",
    "Encoder",
    "Exr",
    "Gif",
    "NvencAV1",
    "NvencH264",
    "NvencH265",
    "Png",
    "ProRes",
    "SvtAV1",
    "WebP",
]
