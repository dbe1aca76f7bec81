"""The first and the last frame of a run: those of the part that was asked for, whatever the chunks."""

import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.ends import Ends
from async_frame_pipeline.pipeline.video_spec import VideoSpec

from .streams import ListSink, as_image, clip, in_chunks

CPU = torch.device("cpu")


def spec_of(frames_cthw: torch.Tensor) -> VideoSpec:
    return VideoSpec(*frames_cthw.shape[1:], CPU)


@pytest.mark.parametrize("part", [None, (0, 1), (3, 11), (7, 8), (22, 23)])
@pytest.mark.parametrize("sizes", [(1,), (1, 2), (4,), (7, 1, 30), (23,)])
def test_any_chunking_gives_the_same_two(sizes, part):
    frames, ends = clip(23), Ends()
    engine.run(in_chunks(frames, *sizes), spec_of(frames), [ListSink()], frames=part, frames_per_slot=3, ends=ends)
    whole = as_image(frames)[slice(*part or (0, 23))]
    first, last = ends.images()
    assert torch.equal(first, whole[:1]) and torch.equal(last, whole[-1:])


def test_in_half_precision_too():
    frames, ends = clip(5), Ends(torch.float16)
    engine.run(in_chunks(frames, 2), spec_of(frames), [ListSink()], ends=ends)
    assert torch.equal(ends.images()[1], frames.half().add(1.0).div(2.0).clamp(0, 1).permute(1, 2, 3, 0)[-1:])


def test_a_decoder_may_reuse_the_memory_of_a_chunk():
    frames, ends, chunk = clip(6), Ends(), torch.empty(3, 2, 6, 10)

    def decode(submit):
        for start in (0, 2, 4):
            submit(chunk.copy_(frames[:, start : start + 2]))
        chunk.zero_()

    engine.run(decode, spec_of(frames), [ListSink()], ends=ends)
    first, last = ends.images()
    assert torch.equal(first, as_image(frames)[:1]) and torch.equal(last, as_image(frames)[-1:])


def test_of_a_run_that_failed_nothing_stays():
    failed, frames, ends = clip(7), clip(8), Ends()
    with pytest.raises(OSError):
        engine.run(in_chunks(failed, 1), spec_of(failed), [ListSink(fail_on="finish")], ends=ends)
    engine.run(in_chunks(frames, 4), spec_of(frames), [ListSink()], ends=ends)
    first, last = ends.images()
    assert torch.equal(first, as_image(frames)[:1]) and torch.equal(last, as_image(frames)[-1:])
