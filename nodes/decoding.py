"""Which way a video is decoded, and what follows when that way fails.

fast     our own decoder over the same weights, on GPUs that can run it, with a tenth of the stock error
exact    the VAE's own modules, streamed: the stock pixels bit for bit
stock    whatever the stock VAEDecode does; always right, nothing overlaps

Each falls back to the next with one log line that says why, and starts its sinks anew. Out of memory, the exact
decoder starts once more with all other models unloaded and the fewest and smallest slots; then it ends where it ends
in the stock node: in tiles.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
from comfy_api.latest import io

from ..pipeline import engine
from ..pipeline.decoders import exact, whole
from ..pipeline.report import Report
from ..pipeline.sinks import Sink
from ..pipeline.sinks.formats import check_in
from ..pipeline.sinks.tensor import TensorSink
from ..pipeline.video_spec import VideoSpec
from . import fast, host, live

# What a user may ask for: the fast way where it is supported, or only bits equal to stock's, or fast and a warning if not.
DECODERS = ("auto", "exact", "fast")
OUT_OF_MEMORY = "out of memory"


def decoder_input() -> io.Combo.Input:
    """The input that both decode nodes have, after all others: saved workflows hold widgets by position."""
    return io.Combo.Input(
        "decoder", options=list(DECODERS), default=DECODERS[0], optional=True, advanced=True,
        tooltip=(
            "exact: the VAE's own code, the bits of VAE Decode. fast: our own over the same weights, several times as "
            "fast and closer to float32. auto: fast where this GPU and VAE can, else exact; the log says why."
        ),
    )  # fmt: skip


def check_decoder(decoder: str) -> None:
    """Raise a ValueError for one that is not of DECODERS, as may come from another node."""
    check_in(decoder, DECODERS, "decoder can be")


def decode_image(vae, samples: dict, decoder: str = DECODERS[0]) -> torch.Tensor:
    """The frames as an IMAGE, streamed off the GPU where that is possible.

    Args:
        vae, samples: VAE and LATENT.
        decoder: one of DECODERS.
    Returns:
        (T, H, W, 3), same shape, dtype and device as from the stock node, and unless decoded fast the same values.
    Raises:
        ValueError: see `host.check_latent` and `check_decoder`. Otherwise what the stock node raises.
    """
    check_decoder(decoder)
    host.check_latent(vae, samples)
    dtype, reason = torch.float32, None
    if host.why_not_exact(vae, samples) is None:
        dtype = vae.vae_output_dtype()
        if vae.output_device.type != "cpu":
            reason = "the frames stay on the GPU (--gpu-only), there is no copy to overlap"
        elif dtype not in (torch.float32, torch.float16):
            reason = f"the IMAGE is to be {dtype}"
    if reason is None:
        sink = TensorSink(dtype)
        outcome = _stream(vae, samples, [sink], None, decoder)
        if isinstance(outcome, Report):
            return sink.frames_thwc
        if isinstance(outcome, torch.Tensor):
            return outcome
        reason = outcome
    return _stock(vae, samples, reason)


def decode_into(
    vae, samples: dict, sinks: Sequence[Sink], window: tuple[int, int] | None = None, decoder: str = DECODERS[0],
    spectators: Sequence[Sink] = (),
) -> Report:  # fmt: skip
    """Decode into sinks, while the GPU decodes where that is possible.

    Args:
        vae, samples: VAE and LATENT.
        sinks: where the frames go.
        window: (start, stop) frames to deliver, or None for all.
        decoder: one of DECODERS.
        spectators: see `engine.run`.
    Returns:
        The run's report.
    Raises:
        ValueError: see `host.check_latent`. Otherwise what decoding or a sink raises; the sinks are aborted.
    """
    host.check_latent(vae, samples)
    outcome = _stream(vae, samples, sinks, window, decoder, spectators)
    if isinstance(outcome, Report):
        return outcome
    frames = outcome if isinstance(outcome, torch.Tensor) else _stock(vae, samples, outcome)
    return write_frames(frames if window is None else frames[slice(*window)], sinks, spectators=spectators)


def write_frames(
    frames_thwc: torch.Tensor, sinks: Sequence[Sink], alpha: bool = False, alpha_thw1: torch.Tensor | None = None,
    spectators: Sequence[Sink] = (),
) -> Report:  # fmt: skip
    """Send an IMAGE, (T, H, W, >= 3) floats in [0, 1] on any device, through the lanes into sinks.

    Args:
        alpha, alpha_thw1: transparency, see `whole.feed`.
        spectators: see `engine.run`.
    Raises:
        ValueError: it is no such tensor. Otherwise what a sink raises; the sinks are aborted.
    """
    check_image(frames_thwc)
    frames, height, width = frames_thwc.shape[:3]
    device = frames_thwc.device if frames_thwc.device.type in ("cuda", "cpu") else torch.device("cpu")
    spec = VideoSpec(frames, height, width, device, zero_centred=False, alpha=alpha)

    def feed(submit):
        whole.feed(frames_thwc, submit, device, alpha, alpha_thw1)

    with host.reading():
        return host.run_lanes(feed, spec, sinks, whole.CHUNK_FRAMES, ready=True, spectators=spectators)


def check_image(frames: object) -> None:
    """Refuse what is no IMAGE.

    Raises:
        ValueError: it is no tensor of floats (T, H, W, >= 3), each at least 1.
    """
    given = type(frames).__name__
    if isinstance(frames, torch.Tensor):
        given = f"{frames.dtype} {tuple(frames.shape)}"
        if frames.ndim == 4 and frames.is_floating_point() and frames.shape[-1] >= 3 and 0 not in frames.shape:
            return
    raise ValueError(
        f"The video's frames are {given}; expected floats of shape (frames, height, width, 3 or more channels), each at "
        "least 1. The node that made this VIDEO is at fault."
    )


def _stock(vae, samples: dict, reason: str) -> torch.Tensor:
    host.say(f"decoding the stock way: {reason}")
    live.tell_stock(reason)
    return host.stock_decode(vae, samples)


def _stream(
    vae, samples: dict, sinks: Sequence[Sink], window: tuple[int, int] | None, decoder: str, spectators: Sequence[Sink] = ()
) -> Report | torch.Tensor | str:
    """Decode through the lanes, the fast or the exact way.

    Returns:
        A report; or, out of memory, the stock node's own answer to that: the tiled IMAGE; or the reason why the
        stock way must be taken.
    """
    reason = host.why_not_exact(vae, samples)
    if reason is not None:
        return reason
    latent = samples["samples"]
    frames, height, width = host.output_size(vae, samples)
    spec = VideoSpec(frames, height, width, vae.device)
    named = f"Wan {host.wan_version(vae)} decode"

    def attempt(decode: Callable, frames_per_slot: int, slots: int = host.SLOTS) -> Report | str:
        """A report, or why it failed: as text, since an error holds the memory of every frame it passed through."""
        try:
            return host.run_lanes(decode, spec, sinks, frames_per_slot, slots=slots, spectators=spectators, frames=window)
        except engine.DecodeError as error:
            cause = error.__cause__ or error
            if host.is_cancel(cause):  # which older ComfyUIs' operations raise as an Exception
                raise cause
            return OUT_OF_MEMORY if host.is_oom(cause) else str(error)
        except Exception as error:
            if not host.is_oom(error):
                raise
            return OUT_OF_MEMORY

    with host.device_context(vae.device):
        note = "as asked"
        if decoder != "exact":
            reason = fast.why_not_fast(vae, height, width)
            if reason is None:
                outcome = attempt(lambda submit: _decode_fast(vae, latent, height, width, submit), frames_per_slot=4)
                if isinstance(outcome, Report):
                    host.say(f"fast {named}, {outcome.text()}")
                    return outcome
                reason = outcome
            note = f"not fast: {reason}"
            if decoder == "fast":
                host.say(f"the fast decoder cannot be used: {reason}", logging.WARNING)

        def decode_exactly(submit):
            host.load_for_decoding(vae, latent)
            latents = latent.to(device=vae.device, dtype=vae.vae_dtype)
            exact.decode(vae.first_stage_model, latents, submit, host.patch_size_undone(vae))

        # What the hook sees at a time: 2.1's decoder recurses in pieces of two frames, 2.2's puts out four.
        frames_per_slot = 2 if host.wan_version(vae) == "2.1" else 4
        began_seconds = time.perf_counter()
        outcome = attempt(decode_exactly, frames_per_slot)
        if outcome == OUT_OF_MEMORY:
            host.say(
                f"out of memory after {time.perf_counter() - began_seconds:.1f} s, starting again with other models "
                f"unloaded and 2 slots of 1 frame instead of {host.SLOTS} of {frames_per_slot}", logging.WARNING,
            )  # fmt: skip
            host.make_room()
            outcome = attempt(decode_exactly, frames_per_slot=1, slots=2)
        if isinstance(outcome, Report):
            host.say(f"exact {named} ({note}), {outcome.text()}")
            return outcome
        if outcome == OUT_OF_MEMORY:
            host.say("out of memory, decoding in tiles as the stock node does", logging.WARNING)
            return host.tiled_decode(vae, latent)
        return f"streaming this ComfyUI's Wan decoder failed: {outcome}"


def _decode_fast(vae, latent: torch.Tensor, height: int, width: int, submit: Callable) -> None:
    decoder = fast.decoder(vae, height, width)
    for frames_cthw in fast.steps(decoder, latent.to(vae.device)):
        submit(frames_cthw)
