"""Decoding a LATENT into an IMAGE or into sinks, by whatever way is best: see `ladder` and `families`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..pipeline.ends import Ends
from ..pipeline.report import Decoded, Report
from ..pipeline.sinks import Sink
from ..pipeline.sinks.tensor import TensorSink
from ..pipeline.sources import images
from ..pipeline.text import Text
from ..pipeline.video_spec import VideoSpec
from . import families, live, values
from .comfyui import lanes
from .comfyui.tiling import Tiling
from .ladder import climb_down

# What a user may ask for: the fast way where it is supported, or only bits equal to stock's,
# or fast and a warning if not.
DECODERS = ("auto", "exact", "fast")


def checked_decoder(decoder: object) -> str:
    """One of DECODERS; raise a ValueError for anything else, as may come from another node."""
    return values.one_of("decoder", decoder, DECODERS)


def decode_image(vae, samples: dict, decoder: str = DECODERS[0], tiling: Tiling | None = None) -> torch.Tensor:
    """The frames as an IMAGE, streamed off the GPU where that is possible.

    Args:
        vae, samples: VAE and LATENT.
        decoder: one of DECODERS.
        tiling: as VAE Decode (Tiled) does it, whatever the decoder; None for VAE Decode.
    Returns:
        (T, H, W, 3), same shape, dtype and device as from the stock node, and unless decoded fast the same values.
    Raises:
        ValueError: see `families.check` and `checked_decoder`. Otherwise what the stock node raises.
    """
    return decode_image_with_report(vae, samples, decoder, tiling)[0]


def decode_image_with_report(
    vae, samples: dict, decoder: str = DECODERS[0], tiling: Tiling | None = None
) -> tuple[torch.Tensor, Report]:
    """`decode_image`, and what there is to say of it."""
    image = _Image(vae, tiling)
    climb_down(families.job(vae, samples, checked_decoder(decoder), image, tiling))
    return image.frames_thwc, image.report


def image_dtype(vae, tiling: Tiling | None) -> torch.dtype:
    """What ComfyUI's IMAGE is of: tiles are added up in float32."""
    return vae.vae_output_dtype() if tiling is None else torch.float32


def decode_into(
    vae,
    samples: dict,
    sinks: Sequence[Sink],
    window: tuple[int, int] | None = None,
    decoder: str = DECODERS[0],
    spectators: Sequence[Sink] = (),
    ends: Ends | None = None,
    tiling: Tiling | None = None,
) -> Report:
    """Decode into sinks, while the GPU decodes where that is possible.

    Args:
        vae, samples: VAE and LATENT.
        sinks: where the frames go.
        window: (start, stop) frames to deliver, or None for all.
        decoder: one of DECODERS.
        spectators, ends: see `engine.run`.
        tiling: see `decode_image`.
    Returns:
        The run's report.
    Raises:
        ValueError: see `families.check`. Otherwise what decoding or a sink raises; the sinks are aborted.
    """
    into = _Sinks(sinks, spectators, window, ends)
    climb_down(families.job(vae, samples, decoder, into, tiling))
    return into.report


class _Sinks:
    """An `Output`: through the lanes, those frames too that are decoded already."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        spectators: Sequence[Sink],
        window: tuple[int, int] | None,
        ends: Ends | None,
    ):
        self._sinks, self._spectators, self._window, self._ends = sinks, spectators, window, ends
        self.decoded = Decoded()
        self.report: Report | None = None

    def why_no_lanes(self, vae) -> str | None:
        return None

    def stream(self, decode: Callable, spec: VideoSpec, frames_per_slot: int, slots: int | None) -> None:
        self.report = lanes.run(
            decode,
            spec,
            self._sinks,
            frames_per_slot,
            decoded=self.decoded,
            slots=slots,
            spectators=self._spectators,
            frames=self._window,
            ends=self._ends,
        )

    def take(self, frames_thwc: torch.Tensor) -> None:
        part = frames_thwc if self._window is None else frames_thwc[slice(*self._window)]
        self.report = write_frames(part, self._sinks, self._spectators, self.decoded, self._ends)


class _Image:
    """An `Output`: one tensor in main memory, or the stock node's own, which is not copied."""

    def __init__(self, vae, tiling: Tiling | None):
        self._vae, self._tiling = vae, tiling
        self.decoded = Decoded()
        self.report: Report | None = None
        self.frames_thwc: torch.Tensor | None = None

    def why_no_lanes(self, vae) -> str | None:
        if vae.output_device.type != "cpu":
            return Text("the frames stay on the GPU (--gpu-only), there is no copy to overlap")
        dtype = image_dtype(vae, self._tiling)
        if dtype in (torch.float32, torch.float16):
            return None
        return Text("the IMAGE is to be %dtype%", dtype=str(dtype).removeprefix("torch."))

    def stream(self, decode: Callable, spec: VideoSpec, frames_per_slot: int, slots: int | None) -> None:
        sink = TensorSink(image_dtype(self._vae, self._tiling))
        self.report = lanes.run(decode, spec, [sink], frames_per_slot, decoded=self.decoded, slots=slots)
        self.frames_thwc = sink.frames_thwc

    def take(self, frames_thwc: torch.Tensor) -> None:
        self.frames_thwc = frames_thwc
        # Nothing is written: the frames count as they are.
        self.report = Report(
            len(frames_thwc), already_decoded=True, decoded=self.decoded, total_seconds=self.decoded.seconds
        )
        live.tell("done", self.report)


def write_frames(
    frames_thwc: torch.Tensor,
    sinks: Sequence[Sink],
    spectators: Sequence[Sink] = (),
    decoded: Decoded | None = None,
    ends: Ends | None = None,
) -> Report:
    """Send an IMAGE, (T, H, W, >= 3) floats in [0, 1] on any device, through the lanes into sinks.

    Args:
        spectators, ends: see `engine.run`.
        decoded: how it was decoded right before.
    Raises:
        ValueError: it is no such tensor. Otherwise what a sink raises; the sinks are aborted.
    """
    images.check_image(frames_thwc)
    device = images.lanes_device(frames_thwc)
    spec = VideoSpec(*frames_thwc.shape[:3], device, zero_centred=False, clamped=False)

    def feed(submit):
        images.feed(frames_thwc, submit, device)

    with lanes.reading():
        return lanes.run(
            feed,
            spec,
            sinks,
            images.CHUNK_FRAMES,
            already_decoded=True,
            decoded=decoded,
            spectators=spectators,
            ends=ends,
        )
