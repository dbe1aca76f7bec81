"""Files of all formats at the level of the sinks: kept when killed or failed, long, odd, and with any sound."""

import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.pixels import convert
from async_frame_pipeline.pipeline.sinks import video_file
from async_frame_pipeline.pipeline.sinks.audio import Audio
from async_frame_pipeline.pipeline.sinks.encoders.base import SPEEDS
from async_frame_pipeline.pipeline.sinks.formats import FORMATS, Choice, available_formats
from async_frame_pipeline.pipeline.sinks.frames import to_frame
from async_frame_pipeline.pipeline.sinks.unfinished import Numbered
from async_frame_pipeline.pipeline.sinks.video_file import VideoOptions
from async_frame_pipeline.pipeline.video_spec import VideoSpec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..conftest import ROOT
from .allocated import CAN_COUNT, allocated_bytes

CPU = torch.device("cpu")
HERE = [name for name in available_formats() if "nvenc" not in name]
VIDEOS = [name for name in HERE if FORMATS[name].is_video]


def each_encoder(names: list[str]) -> list:
    """Parameters: before a merge the first of these formats that has an encoder, at night all of them."""
    first = {FORMATS[name].encoder.name: name for name in reversed(names)}
    return [pytest.param(name, marks=[pytest.mark.nightly] * (name not in first.values())) for name in names]


def target(folder: Path, each) -> Numbered:
    return Numbered(folder, "clip", 1, "" if each.is_folder else each.extension)


def file_sink(target: Numbered, options: VideoOptions):
    """What writes the format."""
    return options.choice.format.sink(target, options)


def choice_of(name: str, **more) -> Choice:
    each = FORMATS[name]
    return Choice(each, **({"bit_depth": each.depths[each.default_chroma][0]} | more))


def noise(frames: int, height: int, width: int, channels: int = 3):
    """A decoder of noise that is made frame by frame."""

    def decode(submit):
        generator = torch.Generator().manual_seed(frames)
        for _ in range(frames):
            submit(torch.rand(channels, 1, height, width, generator=generator))

    return decode


def write(sink, frames: int, height: int, width: int, alpha: bool = False, decode=None):
    spec = VideoSpec(frames, height, width, CPU, zero_centred=False, alpha=alpha)
    return engine.run(decode or noise(frames, height, width, spec.channels), spec, [sink])


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


# ------------------------------------------------------------------------------ unfinished files


def child(call: str) -> list[str]:
    """The command of a process of its own that calls something here."""
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest; "
        f"from async_frame_pipeline.tests.unit import test_sinks; test_sinks.{call}",
    ]


KILLED_FRAMES = 110


def endless(folder: str, *names: str) -> None:
    """Run in a process of its own: write that much of a longer video in each format, say so, and wait to be killed."""
    if not names:
        print("written", flush=True)
        threading.Event().wait()
    name, *others = names

    def decode(submit):
        noise(KILLED_FRAMES, 64, 96)(submit)
        # The lanes hold some slots more: this one is handed over when the frames above have been written.
        submit(torch.zeros(3, 4 * 2, 64, 96))
        endless(folder, *others)  # while this one is unfinished

    each = FORMATS[name]
    sound = Audio(np.zeros((2, 48000 * 60), np.float32), 48000)
    options = VideoOptions(Fraction(16), choice_of(name, speed="fastest"), sound, keep_unfinished=True)
    own = Path(folder, name)
    own.mkdir()
    write(file_sink(target(own, each), options), 10 * KILLED_FRAMES, 64, 96, decode=decode)


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A folder for each format, left by one process that was killed while it wrote them all."""
    folder = tmp_path_factory.mktemp("killed")
    command = child(f"endless({str(folder)!r}, *{VIDEOS})")
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert writer.stdout.readline() == "written\n"
    finally:
        writer.kill()
        writer.wait()
    return folder


@pytest.mark.parametrize("name", VIDEOS)
def test_a_killed_process_leaves_what_it_wrote(killed, name):
    frames = KILLED_FRAMES
    [path] = (killed / name).iterdir()
    assert path.name == f"clip_00001_.unfinished.{FORMATS[name].extension}"
    seen = times(path)
    # The file is less than a second behind; the rest is in the encoder: it looks up to 33 frames (SVT-AV1) ahead.
    assert len(seen) >= frames - 16 - 50
    # Of the last few some may still have been in the encoder, since frames are not stored in the order they are shown.
    assert all(abs(at - Fraction(i, 16)) <= Fraction(1, 1000) for i, at in enumerate(seen[:-8]))


@pytest.mark.parametrize("name", HERE)
def test_a_failed_run_keeps_what_there_is_where_asked(tmp_path, name):
    def decode(submit):
        noise(20, 64, 96)(submit)
        raise RuntimeError("the decoder broke")

    each = FORMATS[name]
    for keep in (False, True):
        sink = file_sink(target(tmp_path, each), VideoOptions(Fraction(16), choice_of(name), keep_unfinished=keep))
        with pytest.raises(engine.DecodeError, match="the decoder broke"):
            write(sink, 100, 64, 96, decode=decode)
        if not keep:
            assert not list(tmp_path.iterdir())
    kept = list(tmp_path.iterdir())
    if each.kind == "animated picture":
        assert kept == [], "an animated picture is nothing before it is complete"
        return
    [kept] = kept
    assert ".unfinished" in kept.name
    # Those that were still in a slot when the error came are not in it; what the encoder held is.
    count = len(list(kept.iterdir())) if kept.is_dir() else len(times(kept))
    assert 8 <= count <= 20


@pytest.mark.parametrize("missing", [1, 3000])
def test_a_kept_file_whose_end_was_lost_is_not_taken_for_whole(tmp_path, monkeypatch, missing):
    """FFmpeg says nothing when the last fragment does not fit on the disk."""
    sink = file_sink(
        target(tmp_path, FORMATS["mp4 (h264)"]),
        VideoOptions(Fraction(16), choice_of("mp4 (h264)"), keep_unfinished=True),
    )
    copy = video_file.defragment

    def lose_the_end(source, *others):
        data = source.read_bytes()
        source.write_bytes(data[: data.rindex(b"mfra") - 4 - missing])
        copy(source, *others)

    monkeypatch.setattr(video_file, "defragment", lose_the_end)
    with pytest.raises(OSError, match=r"cannot write .*clip_0000\d_\.mp4: \d+ of 21 frames could be written"):
        write(sink, 21, 64, 96)
    assert [path.name for path in tmp_path.iterdir()] == ["clip_00001_.unfinished.mp4"]


@pytest.mark.parametrize("name", VIDEOS)
def test_a_finished_file_is_the_same_kept_or_not(tmp_path, name):
    """Fast start, tags, times and sound: nothing shows that it could be played before it was complete."""
    each, sound = FORMATS[name], Audio(np.full((2, 30000), 0.1, np.float32), 48000)
    seen = []
    for keep in (False, True):
        folder = tmp_path / str(keep)
        folder.mkdir()
        options = VideoOptions(
            Fraction(16), choice_of(name), sound, metadata={"workflow": {"nodes": []}}, keep_unfinished=keep
        )
        sink = file_sink(target(folder, each), options)
        write(sink, 40, 64, 96)
        assert {path.suffix for path in folder.iterdir()} == {f".{each.extension}"} | (
            set() if each.restores else {".png"}
        )
        data = sink.path.read_bytes()
        if each.container.in_fragments:
            assert 0 < data.index(b"moov") < data.index(b"mdat") and b"moof" not in data
        with av.open(str(sink.path)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            context = video.codec_context
            facts = {
                "metadata": {
                    key.lower(): value for key, value in container.metadata.items() if key.lower() == "workflow"
                },
                "colour": (context.colorspace, context.color_range, context.color_primaries, context.color_trc),
                "samples": sum(frame.samples for frame in container.decode(audio)),
            }
        seen.append(facts | {"times": times(sink.path)})
    assert abs(seen[0].pop("samples") - seen[1].pop("samples")) <= 1024
    assert seen[0] == seen[1]


# ----------------------------------------------------------------------------------------- long


LONG = pytest.mark.parametrize("name", ["mp4 (h264)", "mp4 (av1)", "mkv (ffv1)", "webm (vp9)", "mov (prores)", "gif"])


def sizes_while_writing(folder: Path, name: str, frames: int, every: int, size) -> list[int]:
    """What `size` gives after every so many frames of 32x64, all of which must be in the file."""
    sizes = []
    pictures = [torch.rand(3, 1, 32, 64, generator=torch.Generator().manual_seed(i)) for i in range(10)]

    def decode(submit):
        for i in range(frames):
            submit(pictures[i % 10])
            if i % every == every - 1:
                sizes.append(size())

    options = VideoOptions(Fraction(16), choice_of(name, speed="fastest", quality="low"))
    sink = file_sink(target(folder, FORMATS[name]), options)
    write(sink, frames, 32, 64, decode=decode)
    with av.open(str(sink.path)) as container:
        packets = sum(1 for packet in container.demux(video=0) if packet.size)
    assert packets == frames
    return sizes


@pytest.mark.skipif(not CAN_COUNT, reason="the C library does not count; the long test watches the process")
@LONG
def test_no_frame_stays_allocated(tmp_path, name):
    """From the 100th frame on, where every encoder has looked ahead as far as it does, nothing is added."""
    sizes = sizes_while_writing(tmp_path, name, 500, 100, allocated_bytes)
    # 400 frames would be 1.2 MB as YUV and 9.8 MB as an IMAGE; some are in the lanes and in the encoder each time.
    assert max(sizes[1:]) - sizes[0] < 0.25e6, [size // 1000 for size in sizes]


@pytest.mark.nightly
@LONG
def test_memory_does_not_grow_with_the_length(tmp_path, name):
    """10,000 frames at a small size: from the 2,000th on, the process is as large as it was."""
    process = psutil.Process()
    sizes = sizes_while_writing(tmp_path, name, 10_000, 1000, lambda: process.memory_info().rss)
    # All frames would be 92 MB as YUV and 246 MB as an IMAGE; what grows is the file's index.
    assert max(sizes[2:]) - sizes[1] < 12e6, [size // 1000 for size in sizes]


# ------------------------------------------------------------------------------------------ odd

sides = st.one_of(st.integers(1, 20), st.sampled_from([31, 33, 34, 40, 47, 48, 63, 64, 65, 97, 128, 130, 255, 256]))
rates = st.one_of(
    st.sampled_from([Fraction(24000, 1001), Fraction(30000, 1001), Fraction(2997, 125), Fraction(1, 2), Fraction(240)]),
    st.integers(1, 240).map(Fraction),
)
sounds = st.one_of(
    st.none(),
    st.tuples(
        st.integers(1, 8), st.integers(1, 60_000), st.sampled_from([8000, 16000, 22050, 37800, 44100, 48000, 96000])
    ),
)


@st.composite
def cases(draw, large: bool) -> dict:
    each = FORMATS[draw(st.sampled_from(HERE))]
    chroma = draw(st.sampled_from(sorted(each.depths)))
    choice = Choice(
        each,
        draw(st.sampled_from(each.qualities)),
        draw(st.sampled_from(SPEEDS[1:])),
        draw(st.sampled_from(each.depths[chroma])),
        chroma,
        chroma in each.alpha and draw(st.booleans()),
        dither=draw(st.booleans()),
    )
    frames = draw(st.one_of(st.integers(1, 12), st.sampled_from([33, 200])))
    height, width = draw(sides), draw(sides)
    if large and frames < 4 and draw(st.integers(0, 9)) == 0:
        height, width = 2160, 3840
    return {
        "choice": choice,
        "frames": frames,
        "height": height,
        "width": width,
        "fps": draw(rates),
        "sound": draw(sounds),
        "repeat": draw(st.sampled_from([0, 0, 1, 3])) if not each.is_folder else 0,
        "keep": draw(st.booleans()),
        "whole_audio": draw(st.booleans()),
    }


@pytest.mark.parametrize("name", ["mp4 (h265)", "mkv (h265)"])
@pytest.mark.parametrize("repeat", [0, 2])
@pytest.mark.parametrize("frames", [1, 2])
def test_x265_with_hardly_a_frame(tmp_path, name, repeat, frames):
    """Its decoding times are left over from whatever was in its memory then: often so that no container takes them."""
    for _ in range(8):
        sink = file_sink(target(tmp_path, FORMATS[name]), VideoOptions(Fraction(16), choice_of(name), repeat=repeat))
        write(sink, frames, 64, 96)
        count = frames * max(1, repeat)
        assert all(abs(at - Fraction(i, 16)) <= Fraction(1, 1000) for i, at in enumerate(times(sink.path)))
        with av.open(str(sink.path)) as container:
            decoded = [packet.dts * packet.time_base for packet in container.demux(video=0) if packet.dts is not None]
        assert decoded == sorted(decoded) and len(times(sink.path)) == count and all(at <= count for at in decoded)


def test_x265_survives_small_sizes():
    """With its "cutree" it writes past its memory there; in a process of its own, which would die of it."""
    sizes = [(32, 48), (40, 40), (16, 48), (48, 64)]
    done = subprocess.run(child(f"encode_h265(*{sizes})"), cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split("\n")[:-1]) == (0, [f"{size} survived" for size in sizes]), done.stderr


def encode_h265(*sizes: tuple[int, int]) -> None:
    import tempfile

    for size in sizes:
        for _ in range(8):
            with tempfile.TemporaryDirectory() as folder:
                options = VideoOptions(Fraction(8), choice_of("mp4 (h265)"))
                write(file_sink(target(Path(folder), FORMATS["mp4 (h265)"]), options), 8, *size)
        print(size, "survived", flush=True)


def moving(frames: int, height: int, width: int) -> torch.Tensor:
    """(3, T, H, W): a soft picture that rolls across and down, with grain, so that encoders take frames from others."""
    generator = torch.Generator().manual_seed(height * width)
    soft = torch.rand(1, 3, height // 4 + 2, width // 4 + 2, generator=generator)
    soft = torch.nn.functional.interpolate(soft, scale_factor=4, mode="bilinear")[0, :, :height, :width]
    rolled = torch.stack([soft.roll((2 * i, 3 * i), (1, 2)) for i in range(frames)], dim=1)
    return 0.9 * rolled + 0.1 * torch.rand(rolled.shape, generator=generator)


PRORES = {
    "4:2:2": {"very high": "HQ", "high": "Standard", "medium": "LT", "low": "Proxy"},
    "4:4:4": {"very high": "XQ", "high": "4444", "medium": "4444", "low": "4444"},
}


@pytest.mark.parametrize(
    "name, chroma",
    [
        pytest.param(*each.values, chroma, marks=each.marks)
        for each in each_encoder(HERE)
        for chroma in FORMATS[each.values[0]].depths
    ],
)
def test_every_quality_and_speed(tmp_path, name, chroma):
    """Each opens; and lower quality makes a smaller file, where it is another one at all."""
    each, frames = FORMATS[name], moving(8, 96, 130)
    sizes = {}
    for quality, speed in [(quality, "fast") for quality in each.qualities] + [("high", speed) for speed in SPEEDS]:
        choice = Choice(each, quality, speed, each.depths[chroma][0], chroma)
        sink = file_sink(target(tmp_path, each), VideoOptions(Fraction(16), choice))
        write(sink, 8, 96, 130, decode=lambda submit: submit(frames))
        files = sink.path.iterdir() if sink.path.is_dir() else [sink.path]
        sizes[quality, speed] = sum(path.stat().st_size for path in files)
        if each.encoder.name == "prores_ks":
            with av.open(str(sink.path)) as container:
                assert container.streams.video[0].profile == PRORES[chroma][quality]
    by_quality = [sizes[quality, "fast"] for quality in ("very high", "high", "medium", "low")]
    assert by_quality == sorted(by_quality, reverse=True)
    same = {"gif": 3, "prores_ks": {"4:2:2": 4, "4:4:4": 2}.get(chroma)}.get(each.encoder.name, 4 if each.lossy else 1)
    assert len(set(by_quality)) == same
    if each.lossless and each.lossy:
        assert sizes["lossless", "fast"] > by_quality[0]


@pytest.mark.parametrize(
    "frames, more, last",
    [
        (100, {}, "zones=82,99,subme=6"),
        (20, {}, "zones=15,19,subme=6"),
        (3, {}, None),
        (100, {"speed": "slow"}, None),
        (100, {"speed": "fast"}, None),
        (100, {"quality": "lossless"}, None),
    ],
)
def test_the_last_frames_of_h264_take_less_time(tmp_path, frames, more, last):
    """They are left when the decoder ends. x264 writes into the file what it was told."""
    each, pictures = FORMATS["mp4 (h264)"], moving(frames, 48, 64)
    sink = file_sink(target(tmp_path, each), VideoOptions(Fraction(16), Choice(each, **more)))
    write(sink, frames, 48, 64, decode=lambda submit: submit(pictures))
    told = sink.path.read_bytes()
    assert b"x264 - core" in told and (last is None) == (b"zones=" not in told)
    assert last is None or last.encode() in told


def codes(frame: av.VideoFrame) -> list[np.ndarray]:
    """The bytes of each plane, without what is only there to align its rows."""
    bytes_a_code = 2 if frame.format.components[0].bits > 8 else 1
    packed = 3 if len(frame.planes) == 1 else 1
    rows = [np.frombuffer(plane, np.uint8).reshape(plane.height, -1) for plane in frame.planes]
    return [each[:, : plane.width * bytes_a_code * packed] for each, plane in zip(rows, frame.planes)]


@pytest.mark.parametrize("name", each_encoder([name for name in VIDEOS if FORMATS[name].lossless]))
@pytest.mark.parametrize("size", [(40, 32), (64, 64), (96, 64), (64, 96), (48, 128), (130, 98)], ids=str)
def test_lossless_files_hold_every_code(tmp_path, name, size):
    """At sizes of one block of the encoder, less and more. x265 goes wrong where a frame is one of its blocks wide."""
    each, frames = FORMATS[name], moving(10, *size)
    for chroma, depth in [(chroma, depth) for chroma, depths in each.depths.items() for depth in depths]:
        choice = Choice(each, "high" if not each.lossy else "lossless", "fast", depth, chroma)
        sink = file_sink(target(tmp_path, each), VideoOptions(Fraction(16), choice))
        write(sink, 10, *size, decode=lambda submit: submit(frames))
        wanted = torch.empty((10, *choice.pixel_format.frame_shape(*size)), dtype=choice.pixel_format.dtype)
        convert(frames, False, choice.pixel_format, wanted)
        with av.open(str(sink.path)) as container:
            for i, frame in enumerate(container.decode(video=0)):
                same = to_frame(wanted[i : i + 1], choice.pixel_format, *size)
                if same.format.name == "bgr0":  # whose fourth byte is nothing
                    frame, same = frame.reformat(format="rgb24"), same.reformat(format="rgb24")
                assert all(map(np.array_equal, codes(frame), codes(same))), (choice, i)
        assert i == 9


ALIKE = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=60, **ALIKE)
@given(case=cases(large=False))
def test_anything_becomes_a_correct_file_or_a_clear_refusal(tmp_path_factory, case):
    correct_or_refused(tmp_path_factory, case)


@pytest.mark.nightly
@settings(max_examples=400, **ALIKE)
@given(case=cases(large=True))
def test_much_more_becomes_a_correct_file_or_a_clear_refusal(tmp_path_factory, case):
    """Frames of 2160p too."""
    correct_or_refused(tmp_path_factory, case)


def correct_or_refused(tmp_path_factory, case: dict) -> None:
    folder = tmp_path_factory.mktemp("any")
    choice, fps, frames = case["choice"], case["fps"], case["frames"]
    each, sound = choice.format, None
    if case["sound"] is not None:
        channels, samples, rate = case["sound"]
        sound = Audio(np.sin(np.arange(channels * samples, dtype=np.float32)).reshape(channels, samples) * 0.3, rate)
    try:
        options = VideoOptions(
            fps, choice, sound, whole_audio=case["whole_audio"], repeat=case["repeat"], keep_unfinished=case["keep"]
        )
        sink = file_sink(target(folder, each), options)
        write(sink, frames, case["height"], case["width"], choice.alpha)
    except (ValueError, RuntimeError) as refusal:
        # Encoders with a smallest size, pictures that move with a largest frame rate; the message says so.
        size = f"{case['width']}x{case['height']}"
        assert any(
            said in str(refusal) for said in ("cannot be opened for", "plays at most", "needs at least 32 pixels")
        )
        assert min(case["height"], case["width"]) < 32 or each.kind == "animated picture", (size, refusal)
        assert not list(folder.iterdir()), "debris"
        return
    height, width = choice.pixel_format.stored_size(case["height"], case["width"])
    if each.is_folder:
        assert len(list(sink.path.iterdir())) == frames
        return
    if each.extension == "webp":
        from PIL import Image

        with Image.open(sink.path) as picture:
            assert (picture.size, getattr(picture, "n_frames", 1)) == ((width, height), frames)
        return
    plays = max(1, case["repeat"]) if each.is_video else 1
    with av.open(str(sink.path)) as container:
        seen = list(container.decode(video=0))
    assert len(seen) == frames * plays
    assert (seen[0].height, seen[0].width) == (height, width)
    exact = {"gif": Fraction(1, 200), "matroska": Fraction(1, 1000), "webm": Fraction(1, 1000)}.get(
        each.container.name, Fraction(1, 10000)
    )
    assert all(abs(frame.pts * frame.time_base - i / fps) <= exact for i, frame in enumerate(seen))
    if sound is not None and each.is_video:
        with av.open(str(sink.path)) as container:
            stream = container.streams.audio[0]
            heard = Fraction(sum(frame.samples for frame in container.decode(stream)), stream.rate)
            assert stream.codec_context.channels == sound.channels
        wanted = frames * plays / fps
        wanted = max(wanted, sound.seconds) if case["whole_audio"] else wanted
        assert abs(heard - wanted) <= Fraction(2048, stream.rate) + Fraction(1, 100)
