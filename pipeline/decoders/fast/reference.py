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


def head(
    carried: torch.Tensor, frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    sums = F.conv3d(frames.permute(3, 0, 1, 2)[None].float(), weight.float(), padding=(2, 1, 1))[0]
    sums[:, :2] += carried.transpose(0, 1)
    out, carry = sums.split([len(frames), 2], dim=1)
    return out + bias[:, None, None, None], carry.transpose(0, 1).contiguous()


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


def norm_silu_groups(
    source: list[torch.Tensor] | torch.Tensor,
    scale: float,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    before: torch.Tensor | None,
    x_out: torch.Tensor | None,
    x_history: torch.Tensor | None,
    eps: float | None,
    affine: tuple[torch.Tensor, torch.Tensor] | None,
    history: torch.Tensor | None,
    first: int,
    end: int,
    points_out: list[torch.Tensor] | None,
    y_out: torch.Tensor | None,
    padded: bool,
) -> None:
    x = (_frames(source) if isinstance(source, list) else source.float())[:end] * scale
    if bias is not None:
        x = x + bias
    if residual is not None:
        seen = residual if before is None else torch.cat((before, residual))
        if x_history is not None:
            x_history.copy_(seen[-2:].clone())
        x = x + seen[:end].float()
    if x_out is not None:
        x_out.copy_(x)
    y = x
    if eps is not None:
        y = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
        y = F.silu(y if affine is None else y * affine[0] + affine[1])
    if first > 0:
        y = torch.cat((y[first].expand(first, -1, -1, -1), y[first:]))
    if y_out is not None:
        y_out.copy_(_reflected(y, padded))
    if points_out is None:
        return
    assert history is not None, "points are made of history and y"
    begins = history.float() if first < 0 else y[first].expand(2, -1, -1, -1)
    missing = 4 * len(points_out[0]) - len(y)
    seen = torch.cat((begins, y, y[-1:].expand(missing, -1, -1, -1) if missing else y[:0]))
    groups = torch.stack([seen[4 * g : 4 * g + 6] for g in range(len(points_out[0]))])
    for point, row in zip(points_out, matrix(INPUT[4], seen)):
        point.copy_(_reflected(torch.einsum("t,gthwc->ghwc", row, groups), padded))
    history.copy_(seen[-2:])


def spread_groups(
    products: list[torch.Tensor],
    bias: torch.Tensor,
    factors: tuple[int, int],
    residual: torch.Tensor | None,
    before: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    time, space = factors
    phases = time * space * space
    x = _frames(products)[: len(out) // time] + bias
    x = x.unflatten(-1, (time, space, space, -1))
    if residual is not None:
        seen = residual if before is None else torch.cat((before, residual))
        seen = seen[: len(x)].float().unflatten(-1, (-1, time, space, space)).movedim(3, -1)
        x = x + seen.repeat(1, 1, 1, 1, 1, 1, x.shape[-1] // seen.shape[-1])
    assert x.shape[3:6].numel() == phases
    # (T, H, W, t, y, x, C)
    out.copy_(x.permute(0, 3, 1, 4, 2, 5, 6).reshape(out.shape))


def patches(
    taps: torch.Tensor,
    history: torch.Tensor,
    scale: float,
    bias: torch.Tensor,
    shift: int,
    lowest: int,
    highest: int,
    out: torch.Tensor,
) -> None:
    frames, height, width = out.shape[1], taps.shape[1], taps.shape[2]
    patch = out.shape[2] // height
    seen = torch.cat((history, taps)).float().unflatten(-1, (3, -1)) * scale
    at = torch.arange(frames, device=taps.device)[:, None] + shift + torch.arange(3, device=taps.device)
    at = at.clamp(lowest, highest) + 2
    pixels = bias + sum(seen[at[:, tap], :, :, tap] for tap in range(3))
    pixels = pixels.view(frames, height, width, 3, patch, patch)  # colour, y, x
    out.copy_(pixels.permute(3, 0, 1, 4, 2, 5).reshape(out.shape))


def _frames(products: list[torch.Tensor]) -> torch.Tensor:
    """Six (G, H, W, C) -> (4 G, H, W, C) float32."""
    a = torch.stack(products).float()
    return torch.einsum("tp,pghwc->gthwc", matrix(OUTPUT[4], a), a).flatten(0, 1)


def _reflected(frames: torch.Tensor, padded: bool) -> torch.Tensor:
    if not padded:
        return frames
    return F.pad(frames.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="reflect").permute(0, 2, 3, 1)
