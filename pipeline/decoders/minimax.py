"""MiniMax H3's decode with its loop written anew: each chunk goes to the lanes as soon as the next one is blended in.

The model decodes overlapping chunks of the latent, fades from one into the next, and gathers all frames before it
scales them. Here its own methods decode and blend the chunks, with the same operations in the same order on the same
values, so the pixels are the stock ones bit for bit; only the scaling, which is by element, is done chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def plan(model: torch.nn.Module, latent_frames: int) -> tuple[int, int, int]:
    """(chunks, latent frames that are repeated at the end to fill the last one, frames that are kept)."""
    if latent_frames == 1:
        return 0, 0, 1
    size, dropped = model.tokens_chunk_size, model.token_drop
    repeated = -(latent_frames + dropped) % size
    chunks = (latent_frames + dropped + repeated) // size - (1 if dropped else 0)
    if chunks < 1:
        repeated, chunks = repeated + size, chunks + 1
    return chunks, repeated, model._decode_temporal_frame_plan(latent_frames + repeated, chunks, repeated)


def decode(model: torch.nn.Module, latents_bcthw: torch.Tensor, submit: Callable[[torch.Tensor], None]) -> None:
    """Decode one video, submitting every chunk.

    Args:
        model: ComfyUI's `MiniMaxH3VideoVAE`.
        latents_bcthw: (1, C, T, H, W) in the model's dtype, on its device.
        submit: receives (3, T, H, W) float32 in [-1, 1].
    Raises:
        What `submit` or the model raises; AttributeError where the model has other parts than are known.
    Stream: kernels are launched on the caller's current stream.
    """
    std, mean = (each.view(1, -1, 1, 1, 1).to(latents_bcthw) for each in (model.latents_std, model.latents_mean))
    latents = latents_bcthw * std + mean
    chunks, repeated, frames = plan(model, latents.shape[2])
    left = frames

    def put_out(pixels: torch.Tensor) -> None:
        nonlocal left
        scaled = pixels[0, :, :left].float()
        left -= scaled.shape[1]
        if scaled.shape[1]:
            scaled = scaled * model.pixel_std.to(scaled)[0] + model.pixel_mean.to(scaled)[0]
            submit(scaled.clamp_(0.0, 1.0).mul_(2.0).sub_(1.0))

    if not chunks:
        put_out(model._adaptive_decode(latents)[:, :, -1:])
        return
    if repeated:
        latents = torch.cat([latents, latents[:, :, -1:].repeat(1, 1, repeated, 1, 1)], dim=2)
    size = model.tokens_chunk_size
    head_frames, skipped = size * model.vae_ratio_t, model.frame_pre_padding
    tail = None
    for start in range(0, chunks * size, size):
        pixels = model._adaptive_decode(latents[:, :, start : start + size + model.token_overlap])
        head = pixels[:, :, :head_frames][:, :, skipped:]
        if tail is not None:
            head = model.blend(tail, head, model.frame_overlap, dim=-3)
        put_out(head)
        if model.token_drop:
            # A copy: a view would keep the chunk while the next one is decoded.
            tail = pixels[:, :, head_frames : 2 * head_frames][:, :, skipped:].clone()
        del pixels, head
    if tail is not None:
        put_out(tail)
