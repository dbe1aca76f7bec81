"""Real files through the lanes, with a fault in each thing that a save makes: the folder holds the whole or nothing.

A save here is an MKV with the picture that holds its workflow, a preview, and the frames kept beside.
"""

import errno
import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.sinks import sidecar, unfinished
from async_frame_pipeline.pipeline.sinks.formats import FORMATS, Choice
from async_frame_pipeline.pipeline.sinks.preview import PreviewSink
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink
from async_frame_pipeline.pipeline.sinks.unfinished import Numbered
from async_frame_pipeline.pipeline.sinks.video_file import VideoFileSink, VideoOptions
from async_frame_pipeline.pipeline.video_spec import VideoSpec

from .streams import clip, in_chunks
from .test_engine import Cancelled, lane_threads

FRAMES = clip(8, 64, 96)
AVERROR_EXTERNAL = -int.from_bytes(b"EXT ", "little")  # FFmpeg's for "an encoder of somebody else's failed"
WHOLE = {"clip_00001_.mkv", "clip_00001_.png", "preview_00001_.mp4"}


class Injected:
    """One fault, at the first call after it is armed."""

    def __init__(self, fault: str):
        self._fault = fault
        self.cancelled = threading.Event()
        self.met = False

    def meet(self) -> None:
        if self.met:
            return
        self.met = True
        if self._fault == "disk full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self._fault == "encoder death":
            raise av.error.ExternalError(AVERROR_EXTERNAL, "injected by the test")
        if self._fault == "exception":
            raise RuntimeError("injected by the test")
        self.cancelled.set()

    def check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled

    def before(self, owner, name: str, monkeypatch, **options) -> None:
        """Met whenever this is called."""
        real = getattr(owner, name, open)  # a module has the builtin one

        def faulty(*args, **kwargs):
            self.meet()
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, faulty, **options)


def make(folder: Path, keep: bool = False):
    """(the file's sink, the preview's, the kept frames'), where a save of the node would put them."""
    options = VideoOptions(
        Fraction(16),
        Choice(FORMATS["mkv (h264)"], speed="fastest"),
        metadata={"workflow": {"nodes": []}},
        keep_unfinished=keep,
    )
    file = VideoFileSink(Numbered(folder, "clip", 1, "mkv", ("png",)), options)
    return file, PreviewSink(Numbered(folder, "preview", 1, "mp4"), options, file.pixel_format), TensorSink()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_plays(path: Path) -> None:
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES.shape[1]


BESIDE = [
    ("picture", "make"),
    ("picture", "write"),
    *(("preview", step) for step in ("open", "write", "finish", "publish")),
]
NEEDED = [("file", "finish"), ("file", "publish"), ("frames", "finish"), ("frames", "publish")]


@pytest.mark.parametrize("fault", ["exception", "disk full", "encoder death", "cancel"])
@pytest.mark.parametrize("what, step", [*BESIDE, *NEEDED])
def test_cell(tmp_path, monkeypatch, what, step, fault):
    injected = Injected(fault)
    file, preview, frames = make(tmp_path)
    if what == "picture":
        owner, name = {"make": (sidecar, "png_bytes"), "write": (unfinished, "open")}[step]
        injected.before(owner, name, monkeypatch, raising=name != "open")
        if name == "open":  # used for the room at the start of a file, too: nothing is written there
            monkeypatch.setattr(unfinished, "_check_room", lambda path: None)
    else:
        injected.before({"file": file, "preview": preview, "frames": frames}[what], step, monkeypatch)
    spec = VideoSpec(*FRAMES.shape[1:], torch.device("cpu"))

    def run():
        engine.run(in_chunks(FRAMES, 2), spec, [file, frames], spectators=[preview], check=injected.check)

    complete = step == "publish" if fault == "cancel" else (what, step) in BESIDE
    if complete:
        run()
        lost = {} if fault == "cancel" else {"picture": {"clip_00001_.png"}, "preview": {"preview_00001_.mp4"}}[what]
        assert names(tmp_path) == WHOLE.difference(lost)
        assert_plays(file.path)
        assert (preview.path is None) == ("preview_00001_.mp4" in lost)
    else:
        with pytest.raises((RuntimeError, OSError, av.error.FFmpegError, Cancelled)):
            run()
        assert names(tmp_path) == set(), "a failed save leaves no complete video"
        assert file.path is None and frames.frames_thwc is None
    assert injected.met and not lane_threads()


def test_a_full_disk_at_the_picture_is_said_of_the_picture(tmp_path, monkeypatch, caplog):
    injected = Injected("disk full")
    monkeypatch.setattr(unfinished, "_check_room", lambda path: None)
    injected.before(unfinished, "open", monkeypatch, raising=False)
    file, *_ = make(tmp_path)
    engine.run(in_chunks(FRAMES, 2), VideoSpec(*FRAMES.shape[1:], torch.device("cpu")), [file])
    [message] = caplog.messages
    assert f"cannot write {tmp_path / 'clip_00001_.png'}: No space left on device" in message


@pytest.mark.parametrize("keep", [False, True])
def test_giving_up_does_what_it_can_where_nothing_works(tmp_path, monkeypatch, keep):
    """The disk is full, the encoder dead and the share gone: the error is still the first."""
    file, preview, frames = make(tmp_path, keep)

    def decode(submit):
        in_chunks(FRAMES[:, :4], 1)(submit)
        raise RuntimeError("the first error")

    def gone(path, *args, **kwargs):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    class Dead:
        """In place of a container."""

        def mux(self, packets):
            raise av.error.ExternalError(AVERROR_EXTERNAL, "injected by the test")

        def close(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    def abort():
        file._container = file._picture._container = Dead()
        for name in ("stat", "scandir", "unlink"):
            monkeypatch.setattr(os, name, gone)
        type(file).abort(file)
        monkeypatch.undo()

    monkeypatch.setattr(file, "abort", abort)
    spec = VideoSpec(*FRAMES.shape[1:], torch.device("cpu"))
    with pytest.raises(engine.DecodeError, match="the first error"):
        engine.run(decode, spec, [file, frames], spectators=[preview])
    assert frames.frames_thwc is None and preview._file._container is None, "they were given up all the same"


class Unopenable(TensorSink):
    def open(self, spec):
        raise RuntimeError("injected by the test")


class Unpublishable(TensorSink):
    def publish(self):
        raise RuntimeError("injected by the test")


def run(*sinks) -> None:
    engine.run(in_chunks(FRAMES, 2), VideoSpec(8, 64, 96, torch.device("cpu")), sinks)


@pytest.mark.parametrize("keep", [False, True])
def test_a_failed_run_takes_nothing_from_an_earlier_one_of_the_same_sink(tmp_path, keep):
    options = VideoOptions(Fraction(16), Choice(FORMATS["mkv (h264)"], "low"), keep_unfinished=keep)
    sink = VideoFileSink(Numbered(tmp_path, "clip", 1, "mkv"), options)
    run(sink)
    with pytest.raises(RuntimeError, match="injected"):
        run(Unopenable(), sink)
    assert [path.name for path in tmp_path.iterdir()] == ["clip_00001_.mkv"] and sink.kept == []


@pytest.mark.parametrize("format", ["mkv (h264)", "mp4 (h264)"])
def test_what_is_kept_of_a_run_that_failed_after_it_had_its_name_is_told(tmp_path, format):
    choice = Choice(FORMATS[format], "low")
    target = Numbered(tmp_path, "clip", 1, choice.format.extension)
    sink = VideoFileSink(target, VideoOptions(Fraction(16), choice, keep_unfinished=True))
    with pytest.raises(RuntimeError, match="injected"):
        run(sink, Unpublishable())
    assert sink.kept == list(tmp_path.iterdir()) and len(sink.kept) == 1
    run(sink)
    assert [path.name for path in tmp_path.iterdir()] == [sink.path.name], "what was kept is gone with the whole"
