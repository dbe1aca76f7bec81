"""What a run will carry, known before the first frame exists."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class VideoSpec:
    """The frames one run carries; rings and sinks are sized from it before decoding starts.

    Args:
        frames: pictures in all, >= 1.
        height: pixels, >= 1.
        width: pixels, >= 1.
        device: where the decoder leaves its output. On "cuda" the lanes are CUDA streams, on "cpu"
            only the sink thread overlaps; no other device has lanes. A "cuda" without a number is the
            caller's current one, from here on with its number, since each thread has its own.
        zero_centred: True when the decoder's output spans [-1, 1] (a VAE's raw output), False when it
            spans [0, 1] (an IMAGE).
        clamped: whether what lies outside is clamped in an IMAGE too, as ComfyUI does with most VAEs; of the codes in
            files it always is.
        alpha: whether the output has a fourth channel, transparency; that one spans [0, 1] always.

    Raises:
        ValueError: a size below 1, or a device without lanes.
    """

    frames: int
    height: int
    width: int
    device: torch.device
    zero_centred: bool = True
    clamped: bool = True
    alpha: bool = False

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"a video needs {name} >= 1, got {getattr(self, name)}")
        if self.device.type not in ("cuda", "cpu"):
            raise ValueError(f"frames on device '{self.device}' cannot be pipelined; supported are cuda and cpu")
        if self.device.type == "cuda" and self.device.index is None:
            object.__setattr__(self, "device", torch.device("cuda", torch.cuda.current_device()))

    @property
    def channels(self) -> int:
        return 4 if self.alpha else 3
