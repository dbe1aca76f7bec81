"""The fast decoder in float32 on the CPU, against ComfyUI's own module: as a CPU runs it, and as a GPU does, whose
kernels are replaced by their references.
"""

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.away import Away
from async_frame_pipeline.pipeline.decoders.fast import cpu, reference, room, weights, winograd
from async_frame_pipeline.pipeline.decoders.fast.network import Bands, WanDecoder, steps

from . import stock_wan

CPU = torch.device("cpu")
# Both sum the same products in another order: float32 leaves about 3e-6 of outputs near 3. bf16 would leave 1e-2.
TOLERANCE = 2e-5
VERSIONS = pytest.mark.parametrize("version", ["2.1", "2.2"])
LAYOUTS = pytest.mark.parametrize("in_rows", [True, False], ids=["cpu", "gpu"])


def fast_decoder(vae, in_rows=None) -> WanDecoder:
    return WanDecoder(weights.load(vae.state_dict(), CPU, torch.float32, in_rows))


def decode(decoder, latents_bcthw):
    decoder.reset()
    return torch.cat([decoder.step(latents_bcthw[:, :, t]) for t in range(latents_bcthw.shape[2])], dim=1)


@LAYOUTS
@VERSIONS
@pytest.mark.parametrize("frames", [1, 2, 3, 9, *(pytest.param(n, marks=pytest.mark.nightly) for n in range(4, 9))])
def test_every_length_is_the_stock_decode(version, in_rows, frames):
    vae, latents = stock_wan.module(version, 8), stock_wan.latents(version, frames, 2, 3)
    wanted = vae.decode(latents)[0]
    got = decode(fast_decoder(vae, in_rows), latents)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=0)


@VERSIONS
@pytest.mark.parametrize("frames", [1, 3])
def test_four_frames_at_a_time_on_a_cpu_as_wide_ones_are(version, frames, monkeypatch):
    monkeypatch.setattr(weights, "WIDE", 1)
    vae, latents = stock_wan.module(version, 8), stock_wan.latents(version, frames, 3, 2)
    torch.testing.assert_close(decode(fast_decoder(vae, True), latents), vae.decode(latents)[0], atol=TOLERANCE, rtol=0)


@LAYOUTS
@VERSIONS
@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (4, 1)])
@pytest.mark.parametrize("channels", [4, 12])
def test_odd_sizes_and_widths(version, in_rows, height, width, channels):
    vae, latents = stock_wan.module(version, channels), stock_wan.latents(version, 3, height, width)
    torch.testing.assert_close(
        decode(fast_decoder(vae, in_rows), latents), vae.decode(latents)[0], atol=TOLERANCE, rtol=0
    )


@LAYOUTS
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_a_gpu_has_a_second_step_to_do_before_the_first_frames_are_handed_over(in_rows, frames, monkeypatch):
    vae, latents = stock_wan.module("2.1", 8), stock_wan.latents("2.1", frames, 2, 3)
    decoder, launched, handed_over = fast_decoder(vae, in_rows), [], []
    step = decoder.step
    monkeypatch.setattr(decoder, "step", lambda latent, last: launched.append(last) or step(latent, last))
    launched_before = [(handed_over.append(each), len(launched))[1] for each in steps(decoder, latents)]
    assert launched_before == [at if in_rows else min(max(at, 2), frames) for at in range(1, frames + 1)]
    assert launched == [False] * (frames - 1) + [True]
    assert torch.equal(torch.cat(handed_over, dim=1), decode(fast_decoder(vae, in_rows), latents))


@LAYOUTS
@VERSIONS
def test_a_video_leaves_nothing_for_the_next(version, in_rows):
    vae, latents = stock_wan.module(version, 8), stock_wan.latents(version, 4, 2, 3)
    decoder = fast_decoder(vae, in_rows)
    first = decode(decoder, latents)
    decoder.step(stock_wan.latents(version, 1, 2, 3)[:, :, 0])  # broken off in the middle
    assert torch.equal(decode(decoder, latents), first)


@LAYOUTS
@VERSIONS
def test_a_video_of_another_size_can_follow(version, in_rows):
    vae = stock_wan.module(version, 8)
    decoder = fast_decoder(vae, in_rows)
    decode(decoder, stock_wan.latents(version, 2, 2, 3))
    other = stock_wan.latents(version, 2, 4, 2)
    torch.testing.assert_close(decode(decoder, other), vae.decode(other)[0], atol=TOLERANCE, rtol=0)


@LAYOUTS
@VERSIONS
def test_the_future_does_not_change_the_past(version, in_rows):
    """Causal: a longer clip begins with the same bits."""
    vae, latents = stock_wan.module(version, 8), stock_wan.latents(version, 5, 2, 3)
    decoder = fast_decoder(vae, in_rows)
    whole = decode(decoder, latents)
    part = decode(decoder, latents[:, :, :3])
    assert torch.equal(whole[:, : part.shape[1]], part)


def test_a_state_dict_of_something_else_is_refused():
    with pytest.raises(ValueError, match="not the state dict of a Wan 2.1 or 2.2 VAE: conv2.weight is missing"):
        weights.load({"decoder.conv_in.weight": torch.zeros(1)}, CPU, torch.float32)


def test_folded_upsampling_is_doubling_and_convolving():
    weight, bias = torch.randn(5, 3, 3, 3), torch.randn(5)
    x = torch.randn(2, 4, 6, 3)  # (T, H, W, C)
    doubled = torch.nn.functional.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="nearest-exact")
    wanted = torch.nn.functional.conv2d(doubled, weight, bias, padding=1).permute(0, 2, 3, 1)
    phases = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), weights._fold_upsampling(weight), padding=1)
    got = torch.full((2, 8, 12, 5), 7.0)
    reference.depth_to_space(phases.permute(0, 2, 3, 1).contiguous(), bias, got, None, (0, 1))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [2, 4])
def test_products_of_points_are_a_convolution(frames):
    """Exactly: in float64 nothing is left of the transforms."""
    taps, seen = torch.randn(3, dtype=torch.float64), torch.randn(frames + 2, dtype=torch.float64)
    points = (
        winograd.matrix(winograd.INPUT[frames], seen) @ seen * (winograd.matrix(winograd.WEIGHT[frames], taps) @ taps)
    )
    wanted = torch.stack([(taps * seen[t : t + 3]).sum() for t in range(frames)])
    torch.testing.assert_close(winograd.matrix(winograd.OUTPUT[frames], points) @ points, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("frames", [2, 4])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_no_product_can_leave_float16(frames, size):
    """The worst input there can be: every frame's pixel as long as allowed, and in line with the largest weights."""
    weight, longest = torch.randn(5, 7, 3, 3, 3) * size, 30.0
    points, scale = winograd.weight_points(weight, frames, longest)
    for point, row in zip(points, winograd.INPUT[frames]):
        inputs = sum(map(abs, row)) * longest * torch.nn.functional.normalize(point, dim=1)
        assert torch.isfinite(inputs.half()).all() and torch.isfinite(point.half()).all()
        assert torch.isfinite((inputs * point).sum(dim=(1, 2, 3)).half()).all()
    # Scaled by a power of two, which is undone exactly.
    assert torch.equal(points[-1] * scale, weight[:, :, 2])


@pytest.mark.parametrize("gamma", [1e5, float("nan")])
def test_weights_too_large_for_float16_are_refused(gamma):
    state = stock_wan.module("2.1", 8).state_dict()
    state["decoder.head.0.gamma"][3] = gamma
    with pytest.raises(ValueError, match="too large for float16"):
        weights.load(state, CPU, torch.float16)


@VERSIONS
@pytest.mark.parametrize(
    "bands", [(Bands(2), Bands(3)), (Bands(1), Bands(2, away=1)), (Bands(3, away=3), Bands(4, away=2))]
)
@pytest.mark.parametrize("height", [5, 9])
def test_in_bands_it_is_the_same(version, bands, height):
    vae, latents = stock_wan.module(version, 8), stock_wan.latents(version, 4, height, 2)
    state = weights.load(vae.state_dict(), CPU, torch.float32, in_rows=False)
    wanted = decode(WanDecoder(state), latents)
    torch.testing.assert_close(decode(WanDecoder(state, bands, Away(CPU)), latents), wanted, atol=1e-5, rtol=0)


# -- on a CPU ---------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("width", [12, 24])
@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("kind", ["noise", "smooth"])
@torch.inference_mode()
def test_on_a_cpu_its_error_is_no_larger_than_the_stock_decoders(version, width, frames, kind):
    """Both against the stock module in float64."""
    vae, latents = stock_wan.module(version, width), stock_wan.latents(version, frames, 5, 6)
    if kind == "smooth":
        latents = latents[:, :, :1, :1, :1] + 0.1 * latents
    fast, stock = decode(fast_decoder(vae), latents), vae.decode(latents)[0]
    exact = vae.double().decode(latents.double())[0]
    error, stock_error = (fast - exact).abs(), (stock - exact).abs()
    assert error.square().mean() <= stock_error.square().mean()
    assert error.max() <= 1.5 * stock_error.max()  # of so few pixels one is the largest by chance


@pytest.mark.parametrize(("frames", "at_a_time"), [(1, 1), (1, 2), (2, 2), (4, 2), (1, 4), (4, 4)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (22, 18)])
@pytest.mark.parametrize(("channels", "outputs"), [(12, 5), (96, 96)])
@pytest.mark.parametrize("what", ["norm", "add", "add and norm", "in place"])
def test_a_convolution_in_rows_is_its_reference(monkeypatch, frames, at_a_time, height, width, channels, outputs, what):
    monkeypatch.setattr(cpu, "MOST_BYTES", 0)
    monkeypatch.setattr(cpu, "LEAST_BYTES", at_a_time * 4 * channels * width * 4)  # a few rows at a time
    generator = torch.Generator().manual_seed(height)
    noise = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    weight, bias = noise(outputs, channels, 3, 3, 3) * (27 * channels) ** -0.5, noise(outputs)
    window, residual = noise(2 + frames, height, width, channels), noise(frames, height, width, outputs)
    if frames == 1 and at_a_time > 1:
        window[:2] = 0
    gamma = None if what == "add" else noise(outputs)
    x, y = residual.clone() if what != "norm" else None, torch.empty_like(residual) if gamma is not None else None
    a = torch.nn.functional.conv3d(window.permute(3, 0, 1, 2)[None], weight, padding=(0, 1, 1))[0].permute(1, 2, 3, 0)
    reference.norm_silu(a, 1.0, bias, x, gamma, x, y, True)

    in_rows = window.transpose(2, 3).contiguous()
    got_x = residual.transpose(2, 3).contiguous() if x is not None else None
    got_y = in_rows[2:] if what == "in place" and channels == outputs else torch.empty(frames, height, outputs, width)
    conv = weights.RowConv(winograd.row_points(weight, at_a_time), bias)
    cpu.conv_norm_silu(in_rows, conv, got_x, gamma, got_x, got_y if gamma is not None else None)
    for got, wanted in ((got_x, x), (got_y, y)):
        if wanted is not None:
            torch.testing.assert_close(got.transpose(2, 3), wanted, atol=TOLERANCE, rtol=1e-5)


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("phase", [0, 1])
def test_enlarging_in_rows_is_its_reference(monkeypatch, shortcut, phase):
    monkeypatch.setattr(cpu, "LEAST_BYTES", 1)  # two rows at a time
    weight, bias, x = torch.randn(5, 10, 3, 3), torch.randn(5), torch.randn(2, 5, 4, 10)  # (T, H, W, C)
    folded = weights._fold_upsampling(weight)
    phases = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), folded, padding=1).permute(0, 2, 3, 1).contiguous()
    wanted = torch.empty(2, 10, 8, 5)
    reference.depth_to_space(phases, bias, wanted, x if shortcut else None, (phase, 2))
    conv = weights._RowReader({}, CPU, torch.float32)._enlarging(folded, bias)
    got, rows = torch.empty(2, 10, 5, 8), x.transpose(2, 3).contiguous()
    cpu.enlarge(rows, conv, got, rows if shortcut else None, (phase, 2))
    torch.testing.assert_close(got.transpose(2, 3), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("channels", "outputs"), [(2, 3), (12, 3), (256, 12)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 15), (4, 128)])
def test_the_head_in_rows_is_a_convolution(monkeypatch, channels, outputs, height, width):
    monkeypatch.setattr(cpu, "LEAST_BYTES", 1)  # two rows at a time
    window, bias = torch.randn(5, height, channels, width), torch.randn(outputs)
    weight = torch.randn(outputs, channels, 3, 3, 3) * (27 * channels) ** -0.5
    wanted = torch.nn.functional.conv3d(window.permute(2, 0, 1, 3)[None], weight, bias, padding=(0, 1, 1))[0]
    torch.testing.assert_close(cpu.head(window, weight, bias), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("version", "width"),
    [("2.1", 12), *(pytest.param(*what, marks=pytest.mark.nightly) for what in (("2.1", 96), ("2.2", 256)))],
)
@torch.inference_mode()
def test_on_a_cpu_it_holds_no_more_than_the_stock_decoder(version, width):
    """At 480x272: both run without any data. It has all that it will remember from the start, so a little more."""
    height, width_in_latents = 272 // stock_wan.SCALE[version], 480 // stock_wan.SCALE[version]
    with torch.device("meta"):
        vae = stock_wan.empty(version, width)
        latents = torch.empty(1, stock_wan.LATENT_CHANNELS[version], 4, height, width_in_latents)
        # It asks how much memory is free.
        vae.decoder.middle[1].optimized_attention = lambda q, k, v: torch.empty_like(q)
        layers = weights.load(vae.state_dict(), torch.device("meta"), torch.float32, in_rows=True)
        with room._Counter() as counter:
            vae.decode(latents)
    assert room.measured(layers, height, width_in_latents).peak <= 1.05 * counter.peak


@pytest.mark.parametrize("gamma", [1e5, 1e20])
def test_in_float32_no_weight_is_too_large(gamma):
    vae = stock_wan.module("2.1", 8)
    vae.decoder.head[0].gamma.data[3] = gamma
    latents = stock_wan.latents("2.1", 2, 2, 3)
    wanted = vae.decode(latents)[0]
    torch.testing.assert_close(decode(fast_decoder(vae), latents), wanted, atol=TOLERANCE * gamma, rtol=1e-4)
