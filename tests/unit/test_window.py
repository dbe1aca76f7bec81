"""A part of a video is the same frames, and nothing past it is decoded."""

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.window import within

from .streams import clip, in_chunks


@pytest.mark.parametrize("sizes", [(1,), (2,), (5, 3), (40,)])
@pytest.mark.parametrize(("start", "stop"), [(0, 17), (0, 4), (3, 4), (5, 17), (16, 17)])
def test_a_window_holds_exactly_its_frames(sizes, start, stop):
    frames, got = clip(17), []
    within(in_chunks(frames, *sizes), start, stop)(got.append)
    assert torch.equal(torch.cat(got, dim=1), frames[:, start:stop])


def test_decoding_ends_with_the_last_frame_asked_for():
    decoded = []

    def decode(submit):
        for chunk in clip(20).split(2, dim=1):
            decoded.append(chunk.shape[1])
            submit(chunk)

    within(decode, 3, 7)(lambda chunk: None)
    assert sum(decoded) == 8


def test_errors_of_the_receiver_pass_through():
    def refuse(chunk):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        within(in_chunks(clip(4), 2), 0, 4)(refuse)
