"""What only shows on a GPU: the same pixels as on the CPU, memory given back, errors on the way."""

import contextlib
import gc
import threading

import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.ends import Ends
from async_frame_pipeline.pipeline.pixels import PixelFormat, convert
from async_frame_pipeline.pipeline.main_memory import page_lock, page_unlock
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink
from async_frame_pipeline.pipeline.video_spec import VideoSpec

from ..unit.streams import ListSink, as_image, clip, in_chunks

# Every layout, depth, range and matrix; more combinations of them run the same operations.
FORMATS = [
    PixelFormat.RGB_F32,
    PixelFormat.RGB_F16,
    PixelFormat.RGB24,
    PixelFormat("rgb", 16, alpha=True),
    PixelFormat("bgr", alpha=True),
    PixelFormat("gbr", 10),
    PixelFormat("gbr", 16, alpha=True),
    PixelFormat.YUV420P,
    PixelFormat.YUV420P10,
    PixelFormat("yuv422", 12),
    PixelFormat("yuv444", 16, alpha=True),
    PixelFormat("yuv420", full_range=True),
    PixelFormat("yuv444", matrix="bt601"),
    PixelFormat("yuv420", dither=True),
]


@pytest.mark.parametrize("pixel_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 47)])
def test_pixels_have_the_same_bits_as_on_the_cpu(device, pixel_format, dtype, height, width):
    frames = clip(5, height, width).to(dtype)
    frames = torch.cat((frames, (frames[:1] + 1) / 2))  # an alpha, which some of them take
    outs = []
    for where in ("cpu", device):
        out = torch.zeros((5, *pixel_format.frame_shape(height, width)), dtype=pixel_format.dtype, device=where)
        convert(frames.to(where), True, pixel_format, out)
        outs.append(out.cpu())
    assert torch.equal(*outs)


def test_the_ends_are_copied_before_the_decoder_reuses_their_memory(device):
    frames, ends, chunk = clip(6, 64, 96, device), Ends(), torch.empty(3, 2, 64, 96, device=device)

    def decode(submit):
        for start in (0, 2, 4):
            torch.cuda._sleep(1_000_000)
            submit(chunk.copy_(frames[:, start : start + 2]))
        chunk.zero_()

    engine.run(decode, VideoSpec(*frames.shape[1:], device), [TensorSink()], frames=(1, 6), ends=ends)
    first, last = ends.images()
    assert first.device.type == last.device.type == "cpu"
    assert torch.equal(first, as_image(frames)[1:2]) and torch.equal(last, as_image(frames)[-1:])


class PinCount:
    """page_lock and page_unlock, counting the bytes in between."""

    def __init__(self, refuse=False):
        self.bytes, self.most, self._refuse = 0, 0, refuse

    def pin(self, host):
        if self._refuse:
            return False
        assert page_lock(host) and host.is_pinned()
        self.bytes += host.nbytes
        self.most = max(self.most, self.bytes)
        return True

    def unpin(self, host):
        page_unlock(host)
        self.bytes -= host.nbytes


def test_pinned_memory_goes_back_after_a_run_and_after_a_failure(device):
    frames = clip(12, 64, 96, device)
    spec = VideoSpec(12, 64, 96, device)
    for sink in (TensorSink(), ListSink(fail_at=4)):
        pinned = PinCount()
        try:
            engine.run(in_chunks(frames, 2), spec, [sink], pin=pinned.pin, unpin=pinned.unpin)
            assert torch.equal(sink.frames_thwc, as_image(frames))
        except OSError:
            assert isinstance(sink, ListSink)
        assert pinned.most == 2 * 4 * 64 * 96 * 3 * 4 and pinned.bytes == 0


def test_memory_that_cannot_be_pinned_still_works(device):
    frames, sink = clip(12, 64, 96, device), TensorSink()
    pinned = PinCount(refuse=True)
    engine.run(in_chunks(frames, 2), VideoSpec(12, 64, 96, device), [sink], pin=pinned.pin, unpin=pinned.unpin)
    assert torch.equal(sink.frames_thwc, as_image(frames))


def test_a_refused_page_lock_leaves_no_error_behind(device):
    """CUDA keeps its last error, and torch would fail for it after the next kernel that it launches."""
    host = torch.empty(1 << 20)
    assert page_lock(host)
    try:
        assert not page_lock(host), "it is page-locked already"
        assert torch.ones(4, device=device).add_(1).sum().item() == 8
    finally:
        page_unlock(host)


def test_what_a_stuck_sink_reads_stays_pinned_until_it_returns(device, monkeypatch):
    monkeypatch.setattr(engine, "STUCK_SECONDS", 0.0)
    frames, spec, pinned = clip(8, 64, 96, device), VideoSpec(8, 64, 96, device), PinCount()
    inside, gate = threading.Event(), threading.Event()

    class Stuck(ListSink):
        def write(self, pixels):
            inside.set()
            assert gate.wait(60)
            super().write(pixels)

    def check():
        if inside.is_set():
            raise KeyboardInterrupt

    sink = Stuck()
    with pytest.raises(KeyboardInterrupt):
        engine.run(in_chunks(frames, 2), spec, [sink], check=check, pin=pinned.pin, unpin=pinned.unpin)
    [thread] = [each for each in threading.enumerate() if each.name == "async-frame-pipeline"]
    assert pinned.bytes == pinned.most > 0 and sink.calls == ["open"]
    gate.set()
    thread.join()
    assert sink.calls[-1] == "abort" and torch.equal(sink.frames, as_image(frames)[:2])
    engine.run(in_chunks(frames, 2), spec, [TensorSink()], pin=pinned.pin, unpin=pinned.unpin)
    assert pinned.bytes == 0 and engine._stuck == set()


def test_nobodys_peak_statistics_are_reset(device):
    """The peak of a run is known where it is the process's."""
    frames, spec = clip(8, 64, 96, device), VideoSpec(8, 64, 96, device)
    torch.empty(1 << 28, dtype=torch.uint8, device=device)  # somebody's, before
    peak_bytes = torch.cuda.max_memory_allocated(device)
    assert engine.run(in_chunks(frames, 2), spec, [TensorSink()]).device_peak_bytes == 0
    assert torch.cuda.max_memory_allocated(device) == peak_bytes
    torch.cuda.reset_peak_memory_stats(device)
    report = engine.run(in_chunks(frames, 2), spec, [TensorSink()])
    assert report.device_peak_bytes == torch.cuda.max_memory_allocated(device) > 0


def test_no_device_memory_is_left(device):
    frames = clip(12, 64, 96, device)
    torch.cuda.synchronize(device)
    gc.collect()  # of tests before this one
    before = torch.cuda.memory_allocated(device)
    for sink in (TensorSink(), ListSink(fail_at=4)):
        with contextlib.suppress(OSError):
            engine.run(in_chunks(frames, 2), VideoSpec(12, 64, 96, device), [sink])
        del sink
    torch.cuda.synchronize(device)
    assert torch.cuda.memory_allocated(device) == before


def test_the_callers_stream_is_the_compute_stream(device):
    """A chunk made on a stream of the caller's own is converted behind it there."""
    source, stream = clip(8, 64, 96, device), torch.cuda.Stream(device)
    torch.cuda.synchronize(device)
    sink = TensorSink()

    def decode(submit):
        for start in range(0, 8, 2):
            chunk = torch.full((3, 2, 64, 96), 9.0, device=device)
            torch.cuda._sleep(20_000_000)
            chunk.copy_(source[:, start : start + 2])
            submit(chunk)

    with torch.cuda.stream(stream):
        engine.run(decode, VideoSpec(8, 64, 96, device), [sink])
    assert torch.equal(sink.frames_thwc, as_image(source))


def test_the_report_knows_the_gpus_time(device):
    """A GPU that sleeps for a fixed time in each chunk is busy, and for at least that long."""
    source = clip(8, 64, 96, device)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    torch.cuda._sleep(100_000_000)
    end.record()
    torch.cuda.synchronize(device)
    sleep_seconds = start.elapsed_time(end) / 1e3

    def decode(submit):
        for first in range(0, 8, 2):
            torch.cuda._sleep(100_000_000)
            submit(source[:, first : first + 2])

    torch.cuda.reset_peak_memory_stats(device)  # of tests before this one
    report = engine.run(decode, VideoSpec(8, 64, 96, device), [TensorSink()], slots=2)
    assert report.span_seconds > 3 * sleep_seconds
    assert report.copy_seconds > 0 and report.device_peak_bytes > 0


def test_a_device_without_a_number_is_the_current_one(device):
    frames, sink = clip(5, 16, 24, device), ListSink()
    engine.run(lambda submit: submit(frames), VideoSpec(5, 16, 24, torch.device("cuda")), [sink])
    assert sum(len(chunk) for chunk in sink.chunks) == 5
