"""The steps of `kernels` in plain torch: what the kernels are held against.

Arguments as there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .winograd import INPUT, OUTPUT, matrix


def norm_silu(
    a: torch.Tensor,
    scale: float,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    gamma: torch.Tensor | None,
    x_out: torch.Tensor | None,
    y_out: torch.Tensor | None,
    silu: bool,
) -> None:
    x = _sum(a.float() * scale, bias, residual, x_out)
    if y_out is not None:
        y_out.copy_(_norm(x, gamma, silu))


def norm_silu_points(
    products: list[torch.Tensor] | torch.Tensor,
    scale: float,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    gamma: torch.Tensor | None,
    x_out: torch.Tensor | None,
    y_out: torch.Tensor | None,
    history: torch.Tensor | None,
    points_out: list[torch.Tensor] | None,
) -> None:
    if isinstance(products, list):
        a = torch.cat(products).float()
        a = torch.einsum("tp,phwc->thwc", matrix(OUTPUT[len(products) - 2], a), a)
    else:
        a = products.float()
    x = _sum(a * scale, bias, residual, x_out)
    if gamma is None:
        return
    y = _norm(x, gamma, silu=True)
    if y_out is not None:
        y_out.copy_(y)
    if points_out is not None:
        assert history is not None, "points are made of history and y"
        seen = torch.cat((history.float(), y))
        for point, row in zip(points_out, matrix(INPUT[len(y)], seen)):
            point.copy_(torch.einsum("t,thwc->hwc", row, seen))
        history.copy_(y[-2:])


def depth_to_space(
    phases: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    shortcut: torch.Tensor | None,
    shortcut_phase: tuple[int, int],
) -> None:
    frames, height, width = phases.shape[0], phases.shape[1] - 1, phases.shape[2] - 1
    channels = out.shape[-1]
    by_phase = phases.float().view(frames, height + 1, width + 1, 2, 2, channels)
    spread = torch.empty((frames, height, width, 2, 2, channels), device=out.device)
    for y in range(2):
        for x in range(2):
            spread[..., y, x, :] = by_phase[:, y : y + height, x : x + width, y, x] + bias
    if shortcut is not None:
        k, factor_t = shortcut_phase
        repeats = channels * factor_t * 4 // shortcut.shape[-1]
        c = torch.arange(channels, device=out.device)
        for y in range(2):
            for x in range(2):
                spread[..., y, x, :] += shortcut[..., ((c * factor_t + k) * 4 + 2 * y + x) // repeats].float()
    out.copy_(spread.permute(0, 1, 3, 2, 4, 5).reshape(frames, 2 * height, 2 * width, channels))


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q.float()[None], k.float()[None], v.float()[None])[0].to(v.dtype)


def head(history: torch.Tensor, frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    window = torch.cat((history, frames))
    return F.conv3d(window.permute(3, 0, 1, 2)[None].float(), weight.float(), bias, padding=(0, 1, 1))[0]


def _sum(
    x: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None, x_out: torch.Tensor | None
) -> torch.Tensor:
    if bias is not None:
        x = x + bias
    if residual is not None:
        x = x + residual.float()
    if x_out is not None:
        x_out.copy_(x)
    return x


def _norm(x: torch.Tensor, gamma: torch.Tensor | None, silu: bool) -> torch.Tensor:
    y = F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * gamma
    return F.silu(y) if silu else y
