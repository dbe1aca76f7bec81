"""Forwards and backwards; and a sink like any other to those who copy or pickle what they find."""

import copy
import pickle

import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.sinks.ping_pong import PingPong, ping_pong_frames
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink
from async_frame_pipeline.pipeline.video_spec import VideoSpec

from .streams import as_image, clip, in_chunks


def test_all_but_the_ends_come_back():
    for frames in (1, 2, 7):
        source, sink = clip(frames), TensorSink()
        engine.run(in_chunks(source, 3), VideoSpec(*source.shape[1:], torch.device("cpu")), [PingPong(sink)])
        there = as_image(source)
        assert torch.equal(sink.frames_thwc, torch.cat([there, there[1:-1].flip(0)]))
        assert len(sink.frames_thwc) == ping_pong_frames(frames)


def test_it_can_be_copied_and_pickled():
    sink = PingPong(TensorSink())
    for same in (copy.copy(sink), copy.deepcopy(sink), pickle.loads(pickle.dumps(sink))):
        assert same.pixel_format == sink.pixel_format and same.name == sink.name
