"""Images in memory as a source: which chunks come, and what is refused."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink
from async_frame_pipeline.pipeline.sources import exact_fps, spec_of
from async_frame_pipeline.pipeline.sources.images import ImageSource

from .media import chunks_of


def image(frames: int = 7, channels: int = 3) -> torch.Tensor:
    return torch.rand(frames, 6, 10, channels, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("frames", [1, 4, 5, 9])
def test_every_frame_comes_in_order(frames):
    images = image(frames)
    source = ImageSource(images, 24)
    chunks = chunks_of(source)
    assert all(chunk.shape[1] <= source.chunk_frames for chunk in chunks)
    assert torch.equal(torch.cat(chunks, dim=1).permute(1, 2, 3, 0), images)


def test_frames_are_not_copied():
    images = image()
    chunks = []
    ImageSource(images, 24).decode(chunks.append)
    assert {chunk.untyped_storage().data_ptr() for chunk in chunks} == {images.untyped_storage().data_ptr()}


def test_what_a_saver_must_know():
    source = ImageSource(image(), Fraction(24000, 1001), bit_depth=10)
    assert (source.frames, source.height, source.width) == (7, 6, 10)
    assert (source.fps, source.bit_depth, source.alpha, source.sound) == (Fraction(24000, 1001), 10, False, None)
    spec = spec_of(source)
    assert (spec.frames, spec.height, spec.width, spec.channels, spec.zero_centred) == (7, 6, 10, 3, False)


def test_a_fourth_channel_is_transparency():
    images = image(channels=4)
    source = ImageSource(images, 24)
    assert source.alpha and spec_of(source).channels == 4
    assert torch.equal(torch.cat(chunks_of(source), dim=1).permute(1, 2, 3, 0), images)


@pytest.mark.parametrize("channels", [3, 4, 5])
def test_transparency_of_its_own_goes_before_a_fourth_channel(channels):
    images, alpha = image(channels=channels), torch.rand(7, 6, 10, 1)
    source = ImageSource(images, 24, alpha_thw1=alpha)
    whole = torch.cat(chunks_of(source), dim=1).permute(1, 2, 3, 0)
    assert source.alpha and torch.equal(whole, torch.cat((images[..., :3], alpha), dim=-1))


@pytest.mark.parametrize("keep", [True, False])
def test_a_sink_without_alpha_gets_the_colours(keep):
    images = image(channels=4)
    source, sink = ImageSource(images, 24), TensorSink(alpha=keep)
    engine.run(source.decode, spec_of(source), [sink])
    assert torch.equal(sink.frames_thwc, images if keep else images[..., :3])


@pytest.mark.parametrize(
    "frames",
    [
        None,
        [[0.0]],
        torch.rand(4, 8, 8),
        torch.rand(0, 8, 8, 3),
        torch.rand(4, 8, 0, 3),
        torch.rand(4, 8, 8, 1),
        torch.zeros(4, 8, 8, 3, dtype=torch.int64),
    ],
    ids=["nothing", "a list", "rank 3", "no frames", "no width", "one channel", "whole numbers"],
)
def test_what_is_no_image_is_refused(frames):
    with pytest.raises(ValueError, match="expected floats of shape"):
        ImageSource(frames, 24)


@pytest.mark.parametrize(
    "rate, fps",
    [
        (24, Fraction(24)),
        (Fraction(24000, 1001), Fraction(24000, 1001)),
        (23.976, Fraction(2997, 125)),
        ("25", Fraction(25)),
        (np.float32(24), Fraction(24)),
        (np.int64(16), Fraction(16)),
        (0.5, Fraction(1, 2)),
    ],
    ids=repr,
)
def test_rates_are_fractions_that_containers_hold(rate, fps):
    assert exact_fps(rate) == fps


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf, "x", None, 1e-9], ids=repr)
def test_rates_that_no_video_has_are_refused(rate):
    with pytest.raises(ValueError, match="must be a number above 0"):
        exact_fps(rate)
