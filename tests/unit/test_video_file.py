"""Files from the lanes, reopened by FFmpeg's own reader."""

import io
import json
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.sinks import audio
from async_frame_pipeline.pipeline.sinks.audio import CODECS, Audio
from async_frame_pipeline.pipeline.sinks.formats import FORMATS, Choice
from async_frame_pipeline.pipeline.sinks.video_file import VideoFileSink, VideoOptions
from async_frame_pipeline.pipeline.video_spec import VideoSpec

from .streams import in_chunks

H264 = Choice(FORMATS["mp4 (h264)"], "medium")
AAC_FRAME = 1024


def moving_gradient(frames: int, height: int, width: int) -> torch.Tensor:
    """(3, T, H, W) in [-1, 1]: smooth, coloured, every frame different; easy to encode well."""
    t = torch.linspace(0, 1, frames).view(-1, 1, 1)
    y = torch.linspace(0, 1, height).view(1, -1, 1)
    x = torch.linspace(0, 1, width).view(1, 1, -1)
    planes = (x + y + t, x - y + 2 * t, 2 * y - x - t)
    return torch.stack([torch.sin(3 * plane) for plane in planes]).mul(0.9)


def tone(seconds: float, rate: int, channels: int = 2) -> Audio:
    wave = np.sin(np.arange(round(seconds * rate)) * (2 * np.pi * 440 / rate)).astype(np.float32)
    return Audio(np.repeat(wave[None] * 0.5, channels, axis=0), rate)


def save(target, frames_cthw, fps=Fraction(16), bit_depth=8, crf=23, **options):
    choice = Choice(FORMATS["mp4 (h264)"], bit_depth=bit_depth, crf=crf)
    options = VideoOptions(fps, choice, **options)
    spec = VideoSpec(*frames_cthw.shape[1:], torch.device("cpu"))
    return engine.run(in_chunks(frames_cthw, 3), spec, [VideoFileSink(target, options)])


def read(path):
    """(frames as FFmpeg's own BT.709 conversion gives them, uint8 (T, H, W, 3); pts in seconds).

    By default swscale trades up to three codes for speed; the flags ask for the exact arithmetic.
    """
    with av.open(path) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        flags = "accurate_rnd+full_chroma_int+full_chroma_inp+bicubic"
        graph.link_nodes(
            graph.add_buffer(template=stream),
            graph.add(
                "scale", f"in_color_matrix=bt709:in_range=limited:in_chroma_loc=left:out_range=full:flags={flags}"
            ),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ).configure()
        pictures, pts = [], []
        for frame in container.decode(stream):
            pts.append(frame.pts * frame.time_base)
            graph.push(frame)
            pictures.append(graph.pull().to_ndarray())
        return np.stack(pictures), pts


def psnr(a, b):
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return 10 * np.log10(255**2 / error)


def image_of(frames_cthw):
    return ((frames_cthw.permute(1, 2, 3, 0) + 1) / 2).clamp(0, 1).mul(255).round().byte().numpy()


@pytest.mark.parametrize("bit_depth", [8, 10])
@pytest.mark.parametrize("fps", [Fraction(16), Fraction(24000, 1001), Fraction(1, 2), Fraction(240)])
def test_frames_timing_and_tags(tmp_path, bit_depth, fps):
    frames = moving_gradient(19, 48, 64)
    path = tmp_path / "clip.mp4"
    save(path, frames, fps=fps, bit_depth=bit_depth, crf=1)
    pictures, pts = read(str(path))
    assert pts == [i / fps for i in range(19)], "presentation times must rise by exactly one frame"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.frames == 19 and stream.average_rate == fps
        assert stream.duration * stream.time_base == 19 / fps
        context = stream.codec_context
        assert context.pix_fmt == {8: "yuv420p", 10: "yuv420p10le"}[bit_depth]
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        assert [int(tag) for tag in tags] == [1, 1, 1, 1], "BT.709, limited range"
    # 44 dB is an error of 1.6 codes: 8-bit limited range alone rounds by up to 1, and 4:2:0 loses a little at the
    # edges of this picture. Chroma read half a pixel off its place gives 42 dB.
    assert all(psnr(got, wanted) > 44 for got, wanted in zip(pictures, image_of(frames)))


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_colour_bars_read_back_within_two_codes(tmp_path, bit_depth):
    """75 % bars and greys, as any BT.709 player shows them; with BT.601 they would be off by up to 27."""
    levels = (
        [(0, 0, 0), (1, 1, 1), (0.5, 0.5, 0.5)]
        + [tuple(0.75 * ((i >> bit) & 1) for bit in range(3)) for i in range(1, 7)]
        + [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    )
    bars = torch.tensor(levels).t().reshape(3, 1, 1, -1, 1).expand(3, 2, 32, -1, 16).reshape(3, 2, 32, -1)
    path = tmp_path / "bars.mp4"
    save(path, bars * 2 - 1, bit_depth=bit_depth, crf=0 if bit_depth == 8 else 1)
    pictures, _ = read(str(path))
    for i, level in enumerate(levels):
        got = pictures[:, 8:24, 16 * i + 6 : 16 * i + 10].astype(int)
        assert np.abs(got - np.round(np.array(level) * 255).astype(int)).max() <= 2, f"bar {level}"


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 47), (32, 47), (2, 2)])
def test_odd_sizes_grow_by_a_repeated_edge(tmp_path, height, width):
    frames = moving_gradient(3, height, width)
    path = tmp_path / "odd.mp4"
    save(path, frames, crf=5)
    pictures, _ = read(str(path))
    assert pictures.shape == (3, height + height % 2, width + width % 2, 3)
    if min(height, width) > 2:  # four pixels share one colour, which two by two different ones cannot show
        assert psnr(pictures[:, :height, :width], image_of(frames)) > 30


@pytest.mark.parametrize("channels", CODECS["aac"].channels)
@pytest.mark.parametrize(("seconds", "rate"), [(2.5, 44100), (0.3, 48000), (2.0, 16000), (1.0, 37800), (0.001, 44100)])
def test_audio_is_as_long_as_the_video(tmp_path, channels, seconds, rate):
    """17 frames at 16 per second: longer sound is cut, shorter is padded with silence."""
    path = tmp_path / "sound.mp4"
    save(path, moving_gradient(17, 32, 32), audio=tone(seconds, rate, channels))
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name == "aac" and stream.codec_context.channels == channels
        length = stream.duration * stream.time_base
        assert abs(length - Fraction(17, 16)) <= Fraction(AAC_FRAME, stream.rate)
        if channels == 2 and seconds >= 1:
            samples = np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], axis=1)
            heard = samples[:, AAC_FRAME * 2 : int(0.9 * stream.rate)]
            assert 0.3 < np.sqrt(2 * np.mean(heard**2)) < 0.6, "the tone has an amplitude of 0.5"


@pytest.mark.parametrize(("codec", "channels"), [(codec, n) for codec, kind in CODECS.items() for n in kind.channels])
def test_every_codec_takes_all_its_channels_as_they_come(tmp_path, codec, channels):
    """Each channel louder than the one before, at 76 Hz, which those for low sounds carry too."""
    loudness = np.arange(1, channels + 1, dtype=np.float32) * 0.1
    sound = Audio(loudness[:, None] * np.sin(np.arange(16000, dtype=np.float32) * 0.01), 48000)
    path = tmp_path / "sound.mkv"
    options = VideoOptions(Fraction(16), Choice(FORMATS["mkv (h264)"], speed="fastest"), sound, codec)
    frames = moving_gradient(4, 32, 32)
    engine.run(in_chunks(frames, 2), VideoSpec(4, 32, 32, torch.device("cpu")), [VideoFileSink(path, options)])
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.channels == channels
        # Interleaved: PyAV reads up to seven planes.
        resampler = av.AudioResampler("flt", stream.layout, stream.rate)
        blocks = [each.to_ndarray() for frame in container.decode(stream) for each in resampler.resample(frame)]
    heard = np.concatenate(blocks, axis=1).reshape(-1, channels)[4000:10000]
    assert np.abs(np.sqrt(2 * np.mean(heard**2, axis=0)) - loudness).max() < 0.04


def test_an_encoder_of_sound_that_cannot_open_is_the_one_named(tmp_path, monkeypatch):
    """libopus takes four channels as quadraphonic only, not as FFmpeg's own layout for four."""
    monkeypatch.setitem(audio.CODECS, "opus", replace(CODECS["opus"], layouts={}))
    sink = VideoFileSink(tmp_path / "clip.mp4", VideoOptions(Fraction(16), H264, tone(1, 44100, 4), "opus"))
    with pytest.raises(RuntimeError, match="libopus cannot be opened for sound with 4 channels at 48000 Hz"):
        engine.run(lambda submit: pytest.fail("decoded"), VideoSpec(1, 32, 32, torch.device("cpu")), [sink])
    assert not list(tmp_path.iterdir())


class Listed:
    """A sound whose pieces come from a list: an iterator without a `close`."""

    channels, sample_rate, seconds = 2, 48000, Fraction(1)

    def __init__(self, fails_at: int = 99):
        self._fails_at = fails_at

    def pieces(self):
        pieces = np.full((48, 2, 1000), 0.1, np.float32)
        return map(self._piece, range(48), pieces)

    def _piece(self, number, piece):
        if number == self._fails_at:
            raise OSError("the sound cannot be read any further")
        return piece


def test_sound_may_come_from_any_iterator(tmp_path):
    path = tmp_path / "sound.mp4"
    save(path, moving_gradient(16, 32, 32), audio=Listed())
    with av.open(str(path)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert abs(samples - 48000) <= 2 * AAC_FRAME and [entry.name for entry in tmp_path.iterdir()] == ["sound.mp4"]


def test_sound_that_breaks_off_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="cannot be read any further"):
        save(tmp_path / "sound.mp4", moving_gradient(16, 32, 32), audio=Listed(fails_at=20))
    assert list(tmp_path.iterdir()) == []


def test_sound_is_closed_once_it_is_all_there_or_given_up(tmp_path):
    for fails_at in (99, 20):
        closed = []

        class Closing(Listed):
            def pieces(self, closed=closed):
                try:
                    yield from super().pieces()
                finally:
                    closed.append(True)

        try:
            save(tmp_path / "sound.mp4", moving_gradient(12, 32, 32), audio=Closing(fails_at))
        except OSError:
            assert fails_at == 20
        assert closed == [True]


def test_a_bytesio_of_a_failed_run_is_empty():
    buffer = io.BytesIO(b"left over" * 10000)

    def decode(submit):
        submit(moving_gradient(2, 32, 32))
        raise RuntimeError("the decoder broke")

    with pytest.raises(engine.DecodeError):
        engine.run(
            decode, VideoSpec(6, 32, 32, torch.device("cpu")), [VideoFileSink(buffer, VideoOptions(Fraction(16), H264))]
        )
    assert buffer.getvalue() == b""


def test_sound_is_interleaved_with_the_pictures(tmp_path):
    """A player that streams the file needs sound near the pictures it belongs to."""
    path = tmp_path / "sound.mp4"
    save(path, moving_gradient(96, 64, 64), audio=tone(6, 44100))
    with av.open(str(path)) as container:
        order = [packet.stream.type for packet in container.demux() if packet.size]
    longest = max(len(run) for kind in ("audio", "video") for run in "".join(k[0] for k in order).split(kind[0]))
    assert order.count("audio") > 200 and longest < 60


def test_metadata_and_fast_start(tmp_path):
    path = tmp_path / "clip.mp4"
    metadata = {"prompt": {"1": {"class_type": "Ä", "inputs": {"x": 1.5}}}, "workflow": {"nodes": [1, 2]}}
    save(path, moving_gradient(3, 32, 32), metadata=metadata)
    with av.open(str(path)) as container:
        assert {key: json.loads(container.metadata[key]) for key in metadata} == metadata
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat"), "players start before the whole file is there"


def test_a_file_without_metadata_carries_none(tmp_path):
    path = tmp_path / "clip.mp4"
    save(path, moving_gradient(3, 32, 32))
    with av.open(str(path)) as container:
        assert not {"prompt", "workflow"} & set(container.metadata)


def test_a_bytesio_gets_the_whole_file():
    buffer = io.BytesIO(b"left over" * 10000)
    frames = moving_gradient(5, 32, 32)
    save(buffer, frames, crf=5)
    buffer.seek(0)
    assert read(buffer)[0].shape == (5, 32, 32, 3)


def test_the_name_appears_only_when_the_file_is_complete(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"the previous file")
    frames = moving_gradient(6, 32, 32)
    seen = []

    def decode(submit):
        for chunk in frames.split(1, dim=1):
            submit(chunk)
            seen.append(path.read_bytes())

    spec = VideoSpec(6, 32, 32, torch.device("cpu"))
    engine.run(decode, spec, [VideoFileSink(path, VideoOptions(Fraction(16), H264))])
    assert set(seen) == {b"the previous file"}
    assert read(str(path))[0].shape[0] == 6
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("audio", [None, tone(1, 44100)])
def test_a_failed_run_leaves_no_file(tmp_path, audio):
    def decode(submit):
        submit(moving_gradient(2, 32, 32))
        raise RuntimeError("the decoder broke")

    sink = VideoFileSink(tmp_path / "clip.mp4", VideoOptions(Fraction(16), H264, audio=audio))
    with pytest.raises(engine.DecodeError, match="the decoder broke"):
        engine.run(decode, VideoSpec(6, 32, 32, torch.device("cpu")), [sink])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_fails_before_decoding(tmp_path):
    sink = VideoFileSink(tmp_path / "gone" / "clip.mp4", VideoOptions(Fraction(16), H264))
    with pytest.raises(OSError, match="gone"):
        engine.run(lambda submit: pytest.fail("decoded"), VideoSpec(6, 32, 32, torch.device("cpu")), [sink])


def test_an_encoder_that_cannot_open_fails_before_decoding(tmp_path):
    """x264 refuses pictures wider than 16384."""
    sink = VideoFileSink(tmp_path / "clip.mp4", VideoOptions(Fraction(16), H264))
    with pytest.raises(RuntimeError, match="libx264 cannot be opened for 20000x2, yuv420p, at 16 frames a second"):
        engine.run(lambda submit: pytest.fail("decoded"), VideoSpec(1, 2, 20000, torch.device("cpu")), [sink])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": Fraction(0)}, "fps must be above 0"),
        ({"fps": Fraction(-5)}, "fps must be above 0"),
        ({"fps": Fraction(10**9)}, "at most 1000, got 1e"),
        ({"fps": Fraction(16), "repeat": -1}, "repeat must be 0 or more, got -1"),
        (
            {"fps": Fraction(16), "audio": tone(1, 44100, 7), "audio_codec": "aac"},
            "7 channels cannot be written as aac",
        ),
        ({"fps": Fraction(16), "audio": tone(1, 44100), "audio_codec": "pcm"}, "as aac, opus, flac; got pcm"),
    ],
)
def test_options_that_cannot_be_encoded_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VideoOptions(choice=H264, **options)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros((2, 0), np.float32), 44100, r"shape \(channels, n >= 1\)"),
        (np.zeros(5, np.float32), 44100, r"shape \(channels, n >= 1\)"),
        (np.zeros((9, 5), np.float32), 44100, "9 channels"),
        (np.zeros((2, 5), np.float32), 0, "with 0 samples a second .* supported are 100 to 10000000 Hz"),
        (np.zeros((2, 5), np.float32), 99, "with 99 samples a second"),
        (np.zeros((2, 5), np.float32), 10_000_001, "with 10000001 samples a second"),
    ],
)
def test_audio_that_cannot_be_encoded_is_refused(samples, rate, message):
    with pytest.raises(ValueError, match=message):
        Audio(samples, rate)
