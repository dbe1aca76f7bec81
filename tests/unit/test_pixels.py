"""Colour conversion against a float64 reference written from the standard."""

import pytest
import torch
from async_frame_pipeline.pipeline import pixels
from async_frame_pipeline.pipeline.pixels import PixelFormat, convert

from .streams import as_image, clip


def converted(frames_cthw, pixel_format, zero_centred=True):
    _, frames, height, width = frames_cthw.shape
    out = torch.full((frames, *pixel_format.frame_shape(height, width)), 77, dtype=pixel_format.dtype)
    convert(frames_cthw, zero_centred, pixel_format, out)
    return out


def planes(out, height, width, pixel_format=PixelFormat.YUV420P10):
    return pixel_format.planes(out, height, width)


def reference_ycbcr(rgb, bits):
    """(..., 3) float64 in [0, 1] -> Y, Cb, Cr codes, not rounded. ITU-R BT.709-6, items 3.2, 3.3 and 3.4."""
    red, green, blue = rgb.double().unbind(-1)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    step = 2 ** (bits - 8)
    return (
        (219 * luma + 16) * step,
        (224 * (blue - luma) / 1.8556 + 128) * step,
        (224 * (red - luma) / 1.5748 + 128) * step,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_float32_is_the_stock_post_processing(dtype):
    frames = clip(5).to(dtype)
    before = frames.clone()
    assert torch.equal(converted(frames, PixelFormat.RGB_F32), as_image(frames))
    assert torch.equal(frames, before), "the decoder's tensor was changed"


def test_float16_is_the_stock_post_processing_of_fp16_intermediates():
    frames = clip(5).to(torch.bfloat16)
    stock = frames.to(torch.float16).add_(1.0).div_(2.0).clamp_(0.0, 1.0).permute(1, 2, 3, 0)
    assert torch.equal(converted(frames, PixelFormat.RGB_F16), stock)


def test_an_image_is_not_scaled_again():
    image = clip(3).abs().clamp(0, 1)
    assert torch.equal(converted(image, PixelFormat.RGB_F32, zero_centred=False), image.permute(1, 2, 3, 0))


def test_rgb24_rounds_to_nearest():
    levels = torch.arange(256) / 255.0
    image = levels.view(1, 1, 16, 16).expand(3, 1, 16, 16)
    assert torch.equal(
        converted(image, PixelFormat.RGB24, zero_centred=False)[0, ..., 0].flatten(),
        torch.arange(256, dtype=torch.uint8),
    )
    nearly = (levels - 0.49 / 255).view(1, 1, 16, 16).expand(3, 1, 16, 16)
    assert torch.equal(
        converted(nearly, PixelFormat.RGB24, zero_centred=False)[0, ..., 2].flatten(),
        torch.arange(256, dtype=torch.uint8),
    )


@pytest.mark.parametrize(("pixel_format", "bits"), [(PixelFormat.YUV420P, 8), (PixelFormat.YUV420P10, 10)])
def test_flat_colours_get_the_codes_of_bt709(pixel_format, bits):
    levels = torch.linspace(0, 1, 7)
    colours = torch.cartesian_prod(levels, levels, levels)  # one frame each
    image = colours.t().reshape(3, -1, 1, 1).expand(3, -1, 4, 6)
    got = planes(converted(image, pixel_format, zero_centred=False), 4, 6)
    for plane, wanted in zip(got, reference_ycbcr(colours, bits)):
        assert (plane.double() - wanted.view(-1, 1, 1)).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("pixel_format", "step"), [(PixelFormat.YUV420P, 1), (PixelFormat.YUV420P10, 4)])
def test_black_white_and_what_lies_outside_stay_in_limited_range(pixel_format, step):
    for value, luma in ((-1.0, 16), (1.0, 235), (-9.0, 16), (9.0, 235)):
        y, u, v = planes(converted(torch.full((3, 1, 2, 2), value), pixel_format), 2, 2)
        assert (y == luma * step).all() and (u == 128 * step).all() and (v == 128 * step).all()


def test_chroma_sits_on_the_left_column_and_between_two_rows():
    """One blue column in a black frame reaches the chroma of its own pair and of its neighbour by (1, 2, 1) / 4."""
    flat = torch.zeros(3, 1, 2, 8)
    flat[2, :, :, 0:8] = 1.0
    full = planes(converted(flat, PixelFormat.YUV420P10, zero_centred=False), 2, 8)[1][0, 0, 0].item() - 512
    for column, shares in ((2, (0, 2, 0, 0)), (3, (0, 1, 1, 0)), (0, (3, 0, 0, 0)), (7, (0, 0, 0, 1))):
        image = torch.zeros(3, 1, 2, 8)
        image[2, :, :, column] = 1.0
        u = planes(converted(image, PixelFormat.YUV420P10, zero_centred=False), 2, 8)[1][0, 0].tolist()
        assert u == pytest.approx([512 + full * share / 4 for share in shares], abs=1), f"column {column}"
    upper_row_only = torch.zeros(3, 1, 2, 8)
    upper_row_only[2, :, 0, :] = 1.0
    u = planes(converted(upper_row_only, PixelFormat.YUV420P10, zero_centred=False), 2, 8)[1]
    assert u.float() == pytest.approx(512 + full / 2, abs=1)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (4, 7), (9, 2)])
def test_odd_sizes_repeat_their_last_row_and_column(height, width):
    frames = clip(2, height, width)
    even_height, even_width = PixelFormat.YUV420P.stored_size(height, width)
    assert even_height % 2 == even_width % 2 == 0 and even_height - height <= 1 and even_width - width <= 1
    padded = frames[:, :, [*range(height), height - 1][:even_height]][..., [*range(width), width - 1][:even_width]]
    assert torch.equal(converted(frames, PixelFormat.YUV420P), converted(padded, PixelFormat.YUV420P))


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("dither", [False, True])
@pytest.mark.parametrize("layout", ["yuv420", "yuv422", "yuv444", "rgb", "gbr"])
def test_bands_on_the_cpu_have_the_bits_of_a_frame_in_one_piece_on_a_gpu(monkeypatch, layout, dither, alpha):
    """37 rows are several bands, and chroma shares the last one with a row that is repeated."""
    pixel_format = PixelFormat(layout, 16 if layout == "rgb" else 10, alpha, dither=dither)
    for channels in (3, 4):
        frames = torch.cat((clip(2, 37, 51), clip(2, 37, 51)))[:channels]
        frames[:, 0, 36, 50] = float("nan")
        whole = torch.empty(2, *pixel_format.frame_shape(37, 51), dtype=pixel_format.dtype)
        unit_cthw = pixels._unit(frames[: 4 if alpha else 3], True, torch.float32).nan_to_num_(0.0)
        pixels._write(unit_cthw, pixel_format, pixel_format.planes(whole, 37, 51))
        monkeypatch.setattr(pixels, "BAND_VALUES", 1)
        bands = converted(frames, pixel_format)
        assert torch.equal(bands.view(torch.uint8), whole.view(torch.uint8)), channels


def test_nan_stays_in_float_and_is_black_in_integers():
    """A VAE that overflows in half precision puts out NaN; ComfyUI keeps it in an IMAGE."""
    frames = torch.full((3, 1, 2, 2), float("nan"))
    assert converted(frames, PixelFormat.RGB_F32).isnan().all()
    assert (converted(frames, PixelFormat.RGB24) == 0).all()
    assert (planes(converted(frames, PixelFormat.YUV420P), 2, 2)[0] == 16).all()


@pytest.mark.parametrize("pixel_format", [PixelFormat.RGB_F32, PixelFormat.RGB24, PixelFormat.YUV420P10])
def test_values_outside_stay_in_an_image_alone_and_where_that_is_asked_for(pixel_format):
    frames = clip(2).mul_(4.0)
    out = torch.empty((2, *pixel_format.frame_shape(*frames.shape[2:])), dtype=pixel_format.dtype)
    convert(frames, False, pixel_format, out, clamped=False)
    if pixel_format.layout == "image":
        assert torch.equal(out, frames.permute(1, 2, 3, 0))
    else:
        assert torch.equal(out, converted(frames.clamp(0.0, 1.0), pixel_format, False))
