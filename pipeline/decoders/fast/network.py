"""The decoder, one latent frame at a time, with everything it remembers in one place.

A causal convolution sees two frames back: it keeps the last two frames of its input. The step is always
one latent frame, whatever the caller's chunks, so every call has the same shapes, cuDNN picks the same
kernels, and any chunking gives the same bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .kernels import depth_to_space, head, norm_silu
from .weights import Attention, Conv, Residual, Stage, Upsample, Weights

HISTORY = 2  # frames back that a kernel of three in time sees


class WanDecoder:
    """Wan 2.1's and 2.2's VAE decoder over `weights`, for one video after another.

    Example:
        decoder = WanDecoder(weights.load(safetensors.torch.load_file(path), device, torch.bfloat16))
        frames = [decoder.step(latents[:, :, t]) for t in range(latents.shape[2])]
    """

    def __init__(self, weights: Weights):
        self._weights = weights
        self._history: dict[int, torch.Tensor] = {}
        self._first = True

    def reset(self) -> None:
        """Forget the video: the next step starts a new one."""
        self._history.clear()
        self._first = True

    @torch.inference_mode()
    def step(self, latent_bchw: torch.Tensor) -> torch.Tensor:
        """Decode the next latent frame.

        Args:
            latent_bchw: (1, C, h, w) in the weights' dtype, on their device.
        Returns:
            (3, T, H, W) about [-1, 1], in the weights' dtype; T is 1 for the first latent frame of a video, then 4.
        Stream: runs on the caller's current stream; never synchronises.
        """
        w = self._weights
        x = F.linear(latent_bchw.permute(0, 2, 3, 1), *w.latent)
        x = self._causal(w.conv_in, self._window(w.conv_in, x), add_bias=True)
        x, _ = self._residuals(w.middle[:1], x)
        x = self._attention(w.middle[1], x)
        x, _ = self._residuals(w.middle[2:], x)
        for stage in w.stages[:-1]:
            x = self._stage(stage, x)
        x, window = self._residuals(w.stages[-1].blocks, x, then=(w.head_gamma, w.head))
        self._remember(w.head, window)
        frames_cthw = head(window, w.head.weight[: w.head.channels], w.head.bias)
        self._first = False
        return _unpatchify(frames_cthw) if w.patch == 2 else frames_cthw

    def _stage(self, stage: Stage, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if stage.upsample.shortcut else None
        out, _ = self._residuals(stage.blocks, x, keep=shortcut is not None)
        return self._upsample(stage.upsample, out, shortcut)

    def _residuals(
        self, blocks: list[Residual], x: torch.Tensor, then: tuple[torch.Tensor, Conv] | None = None, keep: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A run of residual blocks. The sum that ends one is made in the pass that normalises it for the next.

        At 720p each of these tensors is about a gigabyte, so they are dropped as soon as they can be, and sums
        replace a term in place: `x` too, unless it is to `keep`.

        Returns:
            x after the last block and, for a `then` of (gamma, conv), that convolution's input.
        """
        following = [(block.gamma1, block.conv1) for block in blocks[1:]] + [then]
        window = self._empty_window(blocks[0].conv1, x.shape)
        norm_silu(x, None, None, blocks[0].gamma1, None, window[HISTORY:])
        for block, next_layer in zip(blocks, following):
            hidden = self._causal(block.conv1, window)
            del window
            window = self._empty_window(block.conv2, (*x.shape[:3], block.conv1.channels))
            norm_silu(hidden, block.conv1.bias, None, block.gamma2, None, window[HISTORY:])
            del hidden
            out = self._causal(block.conv2, window)
            del window
            residual = x if block.shortcut is None else F.linear(x, *block.shortcut)
            x = torch.empty_like(residual) if keep and residual is x else residual
            keep = False  # from here on x is our own
            gamma, window = None, None
            if next_layer is not None:
                gamma, conv = next_layer
                window = self._empty_window(conv, x.shape)
            norm_silu(out, block.conv2.bias, residual, gamma, x, None if window is None else window[HISTORY:])
            del out, residual
        return x, window

    def _attention(self, layer: Attention, x: torch.Tensor) -> torch.Tensor:
        frames, height, width, channels = x.shape
        normed = torch.empty_like(x)
        norm_silu(x, None, None, layer.gamma, None, normed, silu=False)
        q, k, v = F.linear(normed, *layer.qkv).view(frames, 1, height * width, 3 * channels).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v).view(frames, height, width, channels)
        return F.linear(mixed, *layer.proj).add_(x)

    def _upsample(self, layer: Upsample, x: torch.Tensor, shortcut: torch.Tensor | None) -> torch.Tensor:
        """Time convolution, nearest doubling and its convolution; the first frame of a video stays one frame."""
        factor_t = 1 if layer.time is None else 2
        halves = [x]
        if layer.time is not None and not self._first:
            window = self._window(layer.time[0], x)
            halves = [self._causal(conv, window, add_bias=True) for conv in layer.time]
        step = len(halves)
        frames, height, width, _ = x.shape
        out = x.new_empty((frames * step, 2 * height, 2 * width, layer.space.channels))
        for k, half in enumerate(halves):
            phases = F.conv2d(half.permute(0, 3, 1, 2), layer.space.weight, padding=1).permute(0, 2, 3, 1).contiguous()
            phase = (k if step == factor_t else factor_t - 1, factor_t)
            depth_to_space(phases, layer.space.bias, out, k, step, shortcut, phase)
        return out

    # -- causal convolutions and what they remember -----------------------------------------------

    def _empty_window(self, conv: Conv, shape: tuple[int, ...]) -> torch.Tensor:
        """Input of a convolution, (HISTORY + T, H, W, C): the frames it remembers, and room for the new ones."""
        frames, height, width, channels = shape
        window = torch.empty((HISTORY + frames, height, width, channels), dtype=conv.weight.dtype, device=conv.weight.device)
        remembered = self._history.get(id(conv))
        if remembered is None:  # before a video there is nothing
            window[:HISTORY].zero_()
        else:
            window[:HISTORY].copy_(remembered)
        return window

    def _window(self, conv: Conv, x: torch.Tensor) -> torch.Tensor:
        window = self._empty_window(conv, x.shape)
        window[HISTORY:].copy_(x)
        return window

    def _remember(self, conv: Conv, window: torch.Tensor) -> None:
        remembered = self._history.get(id(conv))
        if remembered is None:
            self._history[id(conv)] = window[-HISTORY:].clone()
        else:
            remembered.copy_(window[-HISTORY:])

    def _causal(self, conv: Conv, window: torch.Tensor, add_bias: bool = False) -> torch.Tensor:
        """(HISTORY + T, H, W, C) -> (T, H, W, channels, padding included unless the bias is added)."""
        self._remember(conv, window)
        bias = conv.bias.to(window.dtype) if add_bias else None
        if add_bias and conv.weight.shape[0] != conv.channels:
            bias = F.pad(bias, (0, conv.weight.shape[0] - conv.channels))
        kernel = conv.weight.shape[-1]
        # For padded channels cuDNN's first guess takes 5.8 ms where its best takes 3.3 (H100, cuDNN 9.19, 720p): worth
        # trying them out once. Elsewhere the guess is good, and trying out every shape would take 8 s.
        padded = conv.weight.shape[0] != conv.channels
        with torch.backends.cudnn.flags(enabled=True, benchmark=padded, deterministic=False, allow_tf32=True):
            out = F.conv3d(window.permute(3, 0, 1, 2)[None], conv.weight, bias, padding=(0, kernel // 2, kernel // 2))
        return out[0].permute(1, 2, 3, 0).contiguous()


def _unpatchify(patches_cthw: torch.Tensor) -> torch.Tensor:
    """(12, T, h, w) -> (3, T, 2 h, 2 w). Source: Wan-Video/Wan2.2 wan/modules/vae2_2.py, unpatchify."""
    _, frames, height, width = patches_cthw.shape
    blocks = patches_cthw.view(3, 2, 2, frames, height, width)  # colour, x, y
    return blocks.permute(0, 3, 4, 2, 5, 1).reshape(3, frames, 2 * height, 2 * width)
