"""Video files as a source: which pictures come of which part, whole, damaged or given up half-way."""

import io
import math
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.sinks.formats import FORMATS, Choice
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink
from async_frame_pipeline.pipeline.sinks.video_file import VideoFileSink, VideoOptions
from async_frame_pipeline.pipeline.sources import spec_of
from async_frame_pipeline.pipeline.sources.file import FileSource

from .media import STEP, chunks_of, numbers_of, ramp, times_open, write_file
from .streams import ListSink

H264 = Choice(FORMATS["mp4 (h264)"], "medium")

# One whose every frame stands alone, and two whose frames need others, before and after.
CODECS = [("ffv1", "bgr0", "mkv"), ("libx264", "yuv420p", "mp4"), ("libvpx-vp9", "yuv420p", "webm")]


def run(source, sinks, frames=None, **how):
    return engine.run(source.decode, spec_of(source), sinks, frames=(0, frames) if frames else None, **how)


# -- which pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [Fraction(fps) for fps in ("24", "24000/1001", "1/2", "25/2", "240")], ids=str)
def test_the_rate_is_exact(tmp_path, fps):
    source = FileSource(write_file(tmp_path / "clip.mov", 5, fps))
    assert (source.fps, source.frames) == (fps, 5)


@pytest.mark.parametrize("codec, pixels, kind", CODECS)
def test_every_picture_comes_in_order_each_time(tmp_path, codec, pixels, kind):
    source = FileSource(write_file(tmp_path / f"clip.{kind}", 30, codec=codec, pixels=pixels))
    assert (source.frames, source.height, source.width, source.alpha, source.sound) == (30, 32, 48, False, None)
    for _ in range(2):
        chunks = chunks_of(source)
        assert numbers_of(chunks) == list(range(30))
        assert all(chunk.shape == (3, 1, 32, 48) and chunk.dtype == torch.float32 for chunk in chunks)


@pytest.mark.parametrize("codec, pixels, kind", CODECS)
@pytest.mark.parametrize(
    "start, end, numbers",
    [
        (0.0, 1.0, range(8)),
        (0.5, math.inf, range(4, 30)),
        (0.5, 1.0, range(4, 8)),
        (0.25, 0.26, [2]),
        (0.51, 1.01, range(5, 9)),
        (3.5, 9.0, [28, 29]),
        (3.625, math.inf, [29]),
    ],
)
def test_a_part_is_the_pictures_that_begin_in_it(tmp_path, codec, pixels, kind, start, end, numbers):
    source = FileSource(write_file(tmp_path / f"clip.{kind}", 30, codec=codec, pixels=pixels), start, end)
    assert source.frames == len(numbers)
    assert numbers_of(chunks_of(source)) == list(numbers)


def test_a_file_in_memory(tmp_path):
    file = io.BytesIO(write_file(tmp_path / "clip.mkv", 12, sounds=(ramp(12000),)).read_bytes())
    file.seek(0, io.SEEK_END)
    source = FileSource(file, 0.5)
    pieces = source.sound.pieces()
    next(pieces)  # pictures and sound are read side by side
    assert numbers_of(chunks_of(source)) == list(range(4, 12))
    pieces.close()


@pytest.mark.parametrize("start, end", [(2.0, math.inf), (0.26, 0.3)])
def test_a_part_without_pictures_is_refused(tmp_path, start, end):
    path = write_file(tmp_path / "clip.mkv", 8)
    with pytest.raises(ValueError, match=f"no frames between {start:g} and {end:g} seconds"):
        FileSource(path, start, end)


def test_sound_alone_is_refused(tmp_path):
    path = write_file(tmp_path / "sound.mkv", 0, sounds=(ramp(8000),))
    with pytest.raises(ValueError, match="no video in it"):
        FileSource(path)


# -- which colours ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codec, pixels, kind, bits",
    [
        ("libx264", "yuv420p", "mp4", 8),
        ("libx264", "yuv420p10le", "mp4", 10),
        ("ffv1", "yuv444p12le", "mkv", 12),
        ("ffv1", "gbrp16le", "mkv", 16),
    ],
)
def test_the_bit_depth_is_that_of_the_file(tmp_path, codec, pixels, kind, bits):
    assert FileSource(write_file(tmp_path / f"clip.{kind}", 2, codec=codec, pixels=pixels)).bit_depth == bits


def test_rgb_comes_exactly(tmp_path):
    path = tmp_path / "noise.mkv"
    picture = np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "bgr0"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    [chunk] = chunks_of(FileSource(path))
    assert torch.equal(chunk[:, 0].permute(1, 2, 0).mul(255).round().byte(), torch.from_numpy(picture))


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p10le", "bgr0"])
def test_white_is_white(tmp_path, pixels):
    path = tmp_path / "white.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, pixels
        white = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 255, np.uint8), "rgb24").reformat(format=pixels)
        container.mux(stream.encode(white))
        container.mux(stream.encode(None))
    [chunk] = chunks_of(FileSource(path))
    assert float(chunk.min()) > 1 - 0.1 / 255 and float(chunk.max()) < 1 + 0.1 / 255


@pytest.mark.parametrize(
    "codec, pixels, kind",
    [("qtrle", "argb", "mov"), ("ffv1", "bgra", "mkv"), ("ffv1", "yuva444p", "mkv"), ("png", "rgba", "mov")],
)
def test_transparency(tmp_path, codec, pixels, kind):
    source = FileSource(write_file(tmp_path / f"clip.{kind}", 4, codec=codec, pixels=pixels, alpha=51))
    chunks = chunks_of(source)
    assert source.alpha and spec_of(source).channels == 4
    assert numbers_of(chunks) == list(range(4))
    assert all(torch.allclose(chunk[3], torch.tensor(51 / 255), atol=0.5 / 255) for chunk in chunks)


def test_a_sink_without_alpha_gets_the_colours(tmp_path):
    source, sink = FileSource(write_file(tmp_path / "clip.mov", 4, codec="png", pixels="rgba", alpha=51)), TensorSink()
    run(source, [sink])
    assert sink.frames_thwc.shape == (4, 32, 48, 3)
    assert [round(float(frame.mean()) * 255 / STEP) for frame in sink.frames_thwc] == list(range(4))


def test_pictures_of_a_turned_phone_are_upright(tmp_path):
    """Its file says in the track's matrix (ISO/IEC 14496-12, 8.3.2) that what is on the left is to be on top."""
    path = tmp_path / "turned.mp4"
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:, :24] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    lay(path, 0, 1, -1, 0)
    source = FileSource(path)
    [chunk] = chunks_of(source)
    assert (source.height, source.width) == (48, 32) and chunk.shape == (3, 1, 48, 32)
    assert float(chunk[:, :, :22].min()) > 0.9 and float(chunk[:, :, 26:].max()) < 0.1


def lay(path: Path, *matrix: float) -> None:
    """Put a, b, c and d into the matrix of an MP4's track: x becomes a x + c y, and y b x + d y."""
    straight, laid = (
        struct.pack(">9i", *(round(each * 2**16) for each in (a, b, 0, c, d, 0, 0, 0)), 2**30)
        for a, b, c, d in ((1, 0, 0, 1), matrix)
    )
    data = path.read_bytes()
    at = data.index(straight, data.index(b"tkhd"))
    path.write_bytes(data[:at] + laid + data[at + len(laid) :])


@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0, 0, 1),
        (0, 1, -1, 0),
        (-1, 0, 0, -1),
        (0, -1, 1, 0),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
    ],
    ids=str,
)
def test_turned_and_mirrored_pictures_are_upright(tmp_path, matrix):
    path = tmp_path / "clip.mp4"
    quarters = np.repeat(np.repeat([[0, 80], [160, 240]], 16, 0), 24, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        picture = np.repeat(quarters[..., None], 3, 2).astype(np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    lay(path, *matrix)
    [chunk] = chunks_of(FileSource(path))
    a, b, c, d = matrix
    for x, y in ((-1, -1), (1, -1), (-1, 1), (1, 1)):  # quarters, from the middle
        to_x, to_y = a * x + c * y, b * x + d * y
        height, width = chunk.shape[2:]
        got = float(chunk[0, 0, height * (2 + to_y) // 4, width * (2 + to_x) // 4]) * 255
        assert abs(got - quarters[16 + 8 * y, 24 + 12 * x]) < 8


@pytest.mark.parametrize("degrees", [20, 30, 44, 46, 60, -30, 135])
def test_pictures_laid_slanting_keep_their_size(tmp_path, degrees):
    path = write_file(tmp_path / "clip.mp4", 2, codec="libx264", pixels="yuv420p")
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    lay(path, cosine, sine, -sine, cosine)
    source = FileSource(path)
    assert (source.height, source.width) == ((48, 32) if round(degrees / 90) % 2 else (32, 48))
    assert numbers_of(chunks_of(source)) == [0, 1]


# -- damaged files ----------------------------------------------------------------------------------


def noise_file(path: Path, seed: int = 0) -> Path:
    """40 pictures that are hard to compress, so that most of the file is pictures."""
    random = np.random.default_rng(seed)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(40):
            picture = random.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return path


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def hole(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)


def test_a_file_that_ends_too_early_ends_there(tmp_path):
    path = noise_file(tmp_path / "clip.mp4")
    cut(path)
    source, sink = FileSource(path), TensorSink()
    promised = source.frames
    with pytest.raises(engine.FrameCountError):
        run(source, [sink])
    source.count_by_decoding()
    assert 10 < source.frames < promised
    run(source, [sink])
    assert len(sink.frames_thwc) == source.frames


def test_what_comes_after_a_damaged_place_keeps_its_time(tmp_path):
    path = noise_file(tmp_path / "clip.mp4")
    whole = chunks_of(FileSource(path))
    hole(path)
    got = chunks_of(FileSource(path))
    assert len(got) == len(whole) == 40
    right = [torch.equal(*pair) for pair in zip(got, whole)]
    assert 10 < sum(right) < 40 and right[-1], "the last ones stand alone again"


# -- what is left open ------------------------------------------------------------------------------


def with_sound(tmp_path: Path) -> Path:
    return write_file(tmp_path / "clip.mkv", 20, sounds=(ramp(20000),))


@pytest.mark.parametrize("at", [1, 7, 20])
def test_a_refused_picture_leaves_the_file_closed(tmp_path, at):
    path, seen = with_sound(tmp_path), []

    def submit(chunk):
        seen.append(times_open(path))
        if len(seen) == at:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough") as kept:
        FileSource(path).decode(submit)
    assert seen == [1] * at, "it is read while it is decoded"
    assert kept.tb is not None and times_open(path) == 0


def test_a_decode_that_is_cut_short_leaves_the_file_closed(tmp_path):
    path = with_sound(tmp_path)
    sink = TensorSink()
    run(FileSource(path), [sink], frames=3)
    assert len(sink.frames_thwc) == 3 and times_open(path) == 0


@pytest.mark.parametrize("fault", [{"fail_on": "open"}, {"fail_on": "write"}, {"fail_at": 9}], ids=str)
def test_a_failed_run_leaves_the_file_closed(tmp_path, fault):
    """Pictures and sound, with the error and its traceback still held, as ComfyUI holds them."""
    path, target = with_sound(tmp_path), tmp_path / "copy.mp4"
    source = FileSource(path)
    sink = VideoFileSink(target, VideoOptions(source.fps, H264, source.sound))
    with pytest.raises(OSError, match="the sink fails") as kept:
        run(source, [sink, ListSink(**fault)])
    assert kept.tb is not None and times_open(path) == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_cancelled_run_leaves_the_file_closed(tmp_path):
    path = with_sound(tmp_path)
    source, opened = FileSource(path), []

    def check():
        opened.append(times_open(path))
        if opened[-1] == 2:
            raise KeyboardInterrupt  # once the sound is open too

    sink = VideoFileSink(tmp_path / "copy.mp4", VideoOptions(source.fps, H264, source.sound))
    with pytest.raises(KeyboardInterrupt) as kept:
        run(source, [sink], check=check)
    assert kept.tb is not None and times_open(path) == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_refused_file_is_closed(tmp_path):
    path = with_sound(tmp_path)
    with pytest.raises(ValueError) as kept:
        FileSource(path, 100.0)
    assert kept.tb is not None and times_open(path) == 0
