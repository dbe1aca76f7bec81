"""The small picture of the newest frame: right colours, small, and only now and then."""

import io

import numpy as np
import pytest
import torch
from async_frame_pipeline.pipeline.pixels import PixelFormat, convert
from async_frame_pipeline.pipeline.sinks import latest_frame
from async_frame_pipeline.pipeline.sinks.latest_frame import LatestFrame
from async_frame_pipeline.pipeline.video_spec import VideoSpec
from PIL import Image

FORMATS = [PixelFormat.YUV420P, PixelFormat.YUV420P10]


def quarters(height: int, width: int) -> torch.Tensor:
    """(3, 1, H, W) in [0, 1]: red, green, blue and grey, from top left to bottom right."""
    rgb = torch.full((3, 1, height, width), 0.5)
    for channel, (top, left) in enumerate([(0, 0), (0, width // 2), (height // 2, 0)]):
        rgb[:, :, top : top + height // 2, left : left + width // 2] = 0.0
        rgb[channel, :, top : top + height // 2, left : left + width // 2] = 1.0
    return rgb


def packed(rgb_cthw: torch.Tensor, pixel_format: PixelFormat) -> torch.Tensor:
    out = torch.empty((rgb_cthw.shape[1], *pixel_format.frame_shape(*rgb_cthw.shape[2:])), dtype=pixel_format.dtype)
    convert(rgb_cthw, False, pixel_format, out)
    return out


def opened(pixel_format: PixelFormat, height: int, width: int) -> LatestFrame:
    sink = LatestFrame(pixel_format)
    sink.open(VideoSpec(1, height, width, torch.device("cpu")))
    return sink


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (272, 480, (320, 181)),
        (720, 1280, (320, 180)),
        (1280, 720, (180, 320)),
        (2160, 3840, (320, 180)),
        (271, 479, (320, 181)),
        (16, 30, (30, 16)),
    ],
)
def test_the_picture_is_small_and_in_the_frames_colours(pixel_format, height, width, size):
    sink = opened(pixel_format, height, width)
    sink.write(packed(quarters(height, width), pixel_format))
    image = Image.open(io.BytesIO(sink.take_jpeg()))
    assert image.format == "JPEG" and image.size == size
    seen = np.asarray(image).astype(int)
    rows, columns = seen.shape[0] // 4, seen.shape[1] // 4
    for (row, column), colour in {
        (1, 1): (255, 0, 0),
        (1, 3): (0, 255, 0),
        (3, 1): (0, 0, 255),
        (3, 3): (128, 128, 128),
    }.items():
        # 12: JPEG and limited range round. BT.601 mistaken for BT.709 would be off by 20 and more.
        assert np.abs(seen[row * rows, column * columns] - colour).max() <= 12


def test_it_is_the_last_frame_of_a_chunk():
    sink = opened(PixelFormat.YUV420P, 32, 32)
    sink.write(packed(torch.cat([torch.zeros(3, 1, 32, 32), torch.ones(3, 1, 32, 32)], dim=1), PixelFormat.YUV420P))
    assert np.asarray(Image.open(io.BytesIO(sink.take_jpeg()))).min() > 250


def test_each_picture_is_handed_out_once():
    sink = opened(PixelFormat.YUV420P, 32, 32)
    assert sink.take_jpeg() is None
    sink.write(packed(quarters(32, 32), PixelFormat.YUV420P))
    assert sink.take_jpeg() is not None
    assert sink.take_jpeg() is None


def test_frames_in_between_are_not_touched(monkeypatch):
    now = 100.0
    monkeypatch.setattr(latest_frame.time, "perf_counter", lambda: now)
    sink = opened(PixelFormat.YUV420P, 32, 32)
    sink.write(packed(quarters(32, 32), PixelFormat.YUV420P))
    sink.take_jpeg()
    now += latest_frame.SECONDS_BETWEEN / 2
    sink.write(None)  # would raise, were it looked at
    assert sink.take_jpeg() is None
    now += latest_frame.SECONDS_BETWEEN / 2
    sink.write(packed(quarters(32, 32), PixelFormat.YUV420P))
    assert sink.take_jpeg() is not None


def test_the_picture_outlives_the_buffer_it_was_taken_from():
    """The slot is filled anew while another thread makes the JPEG."""
    sink = opened(PixelFormat.YUV420P, 32, 32)
    buffer = packed(torch.ones(3, 1, 32, 32), PixelFormat.YUV420P)
    sink.write(buffer)
    buffer.fill_(16)
    assert np.asarray(Image.open(io.BytesIO(sink.take_jpeg()))).min() > 250
