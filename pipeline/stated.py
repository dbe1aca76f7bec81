"""What a video file says of itself beside its pictures and their times, as far as another file can say it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

# ITU-T H.273 code points.
BT709 = 1
BT2020 = 9
PQ, HLG = 16, 18
# Transfers that one screen shows alike: BT.709's, under the names of other standards too, and sRGB's.
SDR_TRANSFERS = (BT709, 6, 13, 14, 15)
NAMES = {4: "BT.470M", 5: "BT.470BG", 6: "SMPTE-C", 7: "SMPTE 240M", BT2020: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
TRANSFER_NAMES = {4: "gamma 2.2", 5: "gamma 2.8", PQ: "PQ", HLG: "HLG"}


@dataclass(frozen=True, slots=True)
class Stated:
    """What a file says of itself.

    Attributes:
        pixel_aspect: width of a pixel by its height, of the pictures as they are upright.
        primaries, transfer: which colours R, G and B stand for, ITU-T H.273; 0 where that is not said: BT.709's.
        mastering: of the screen that HDR pictures were made on: x and y of red, green, blue and white, then the least
            and the most light, in cd/m2; none where that is not said.
        content_light: of HDR pictures: the most light of a pixel, and of a frame in the mean, in cd/m2.
        has_sound: whether there is sound in it that is taken.
        is_interlaced: whether each picture consists of two of different times, of which one is made.
        tags, sound_tags: texts such as the title of the file, and the language of its sound.
        left_out: what is in it that no file made here has, in words.
    """

    pixel_aspect: Fraction = Fraction(1)
    primaries: int = 0
    transfer: int = 0
    mastering: tuple[Fraction, ...] = ()
    content_light: tuple[int, int] | tuple[()] = ()
    has_sound: bool = False
    is_interlaced: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    sound_tags: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def is_hdr(self) -> bool:
        return self.transfer in (PQ, HLG)

    @property
    def is_bt709(self) -> bool:
        """Whether screens show the colours right that take them for BT.709 or sRGB."""
        return self.primaries in (0, BT709) and self.transfer in (0, *SDR_TRANSFERS)

    @property
    def colours(self) -> str:
        """The primaries and the transfer in words."""
        names = NAMES.get(self.primaries, ""), TRANSFER_NAMES.get(self.transfer, "")
        return " ".join(filter(None, names)) or f"colours {self.primaries}/{self.transfer}"

    @property
    def to_bt709(self) -> str:
        """Options of FFmpeg's `scale`, from version 8 on, that convert these colours.

        Those that BT.709 has stay what they are; of HDR all light is pressed into what SDR has, by libswscale's curve.
        """
        intent = "perceptual" if self.is_hdr else "relative_colorimetric"
        return f"out_primaries=bt709:out_transfer=bt709:intent={intent}"
