"""Numbers that are none, or far too large, and rates that a codec does not have: in every format and codec they make a
clip, never noise and never a failed save.
"""

import math
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from async_frame_pipeline.pipeline.pixels import PixelFormat
from async_frame_pipeline.pipeline.sinks.audio import CODECS, Audio
from async_frame_pipeline.pipeline.sinks.formats import FORMATS
from async_frame_pipeline.pipeline.sinks.preview import PreviewSink
from async_frame_pipeline.pipeline.sinks.video_file import VideoOptions
from hypothesis import given, settings
from hypothesis import strategies as st

from .test_sinks import ALIKE, HERE, choice_of, each_encoder, file_sink, moving, target, write

WHERE = [("mp4 (h264)", "aac"), ("mkv (h264)", "aac"), ("mp4 (h264)", "opus"), ("mkv (ffv1)", "flac")]
WHERE += [("mov (prores)", "pcm"), ("mov (prores)", "aac"), ("mkv (h264)", "pcm"), ("mp4 (h264)", "flac")]
BROKEN = [math.nan, math.inf, -math.inf, 1e30, -3e38, 32767.0]


def test_every_codec_is_tried():
    assert {codec for _, codec in WHERE} == set(CODECS)


def heard(folder, name: str, codec: str, samples: np.ndarray, rate: int = 44100, seconds: int = 1, **more):
    """What a second of video with this sound plays: (channels, n) floats, and their rate."""
    choice = choice_of(name, speed="fastest")
    options = VideoOptions(Fraction(4), choice, Audio(samples, rate), codec, **more)
    sink = file_sink(target(folder, FORMATS[name]), options)
    write(sink, 4 * seconds, 32, 48)
    with av.open(str(sink.path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("fltp", stream.layout, stream.rate)
        blocks = [each.to_ndarray() for frame in container.decode(stream) for each in resampler.resample(frame)]
        return np.concatenate(blocks, axis=1), stream.rate


def tone(rate: int = 44100, seconds: float = 1) -> np.ndarray:
    """An eighth of the rate, at most 220 Hz."""
    times = np.arange(int(rate * seconds)) / rate
    return np.stack([np.sin(2 * np.pi * min(220, rate / 8) * times).astype(np.float32) * 0.25] * 2)


@pytest.mark.parametrize(("name", "codec"), WHERE)
@pytest.mark.parametrize("whole", [False, True])
def test_broken_samples_are_silent(tmp_path, caplog, name, codec, whole):
    """Every hundredth sample of a tone; and all of them."""
    broken = tone(seconds=1.5)
    broken[0, ::100] = np.resize(BROKEN, broken[0, ::100].shape)
    samples, _ = heard(tmp_path, name, codec, broken, whole_audio=whole)
    assert np.abs(samples).max() < 0.4, "the tone has an amplitude of 0.25"
    assert 0.1 < np.sqrt(np.mean(samples[0] ** 2)) < 0.2
    assert [record.message.count("are silent") for record in caplog.records] == [1]
    all_broken = np.resize(np.float32(BROKEN), (2, 50_000))
    samples, _ = heard(tmp_path, name, codec, all_broken, whole_audio=whole)
    assert np.abs(samples).max() < 0.001


@pytest.mark.parametrize(("name", "codec"), WHERE)
def test_loud_samples_are_clipped(tmp_path, caplog, name, codec):
    samples, _ = heard(tmp_path, name, codec, tone() * 20)
    assert np.abs(samples).max() < 1.5  # lossy codecs overshoot
    assert "of the sound, 0 samples are no numbers" in caplog.text and "are clipped" in caplog.text


@pytest.mark.parametrize(("name", "codec"), WHERE)
@pytest.mark.parametrize("rate", [100, 441, 7351, 48001, 655_351, 10_000_000])
def test_rates_that_a_codec_does_not_have_are_resampled(tmp_path, name, codec, rate):
    samples, _ = heard(tmp_path, name, codec, tone(rate), rate)
    assert np.abs(samples).max() < 0.4 and 0.1 < np.sqrt(np.mean(samples**2)) < 0.2


@settings(max_examples=25, **ALIKE)
@given(
    where=st.sampled_from(WHERE),
    values=st.lists(st.one_of(st.floats(width=32), st.sampled_from(BROKEN)), min_size=1, max_size=20),
    length=st.integers(1, 60_000),
    channels=st.integers(1, 6),
    rate=st.sampled_from([100, 8000, 44100, 48000, 96000, 700_000]),
)
def test_any_samples_become_sound(tmp_path_factory, where, values, length, channels, rate):
    samples = np.resize(np.float32(values), (channels, length))
    before = samples.copy()
    played, stored = heard(tmp_path_factory.mktemp("any"), *where, samples, rate)
    assert np.isfinite(played).all() and abs(played.shape[1] / stored - 1) < 0.1
    assert np.array_equal(samples, before, equal_nan=True), "the user's own samples are left as they are"


def test_the_preview_does_not_say_it_again(tmp_path, caplog):
    options = VideoOptions(Fraction(4), choice_of("mov (prores)"), Audio(np.full((1, 48000), math.nan), 48000))
    sink = file_sink(target(tmp_path, FORMATS["mov (prores)"]), options)
    small = PreviewSink(target(tmp_path, FORMATS["mp4 (h264)"]), options, PixelFormat("yuv422", 10))
    for each in (sink, small):
        write(each, 4, 32, 48)
    assert [record.message.count("are silent") for record in caplog.records] == [1]


@pytest.mark.parametrize("name", each_encoder(HERE))
def test_pictures_of_no_numbers_are_black_where_they_are_broken(tmp_path, name):
    """In every format the same bytes as of a clip that has zeros there; transparency too."""
    each = FORMATS[name]
    alpha = next((chroma for chroma in each.depths if chroma in each.alpha), None)
    depths = each.depths[alpha or each.default_chroma]
    frames = moving(6, 32, 48)
    frames = torch.cat((frames, frames[:1])) if alpha else frames
    broken = frames.clone()
    broken[..., ::7], broken[..., 1::7], broken[..., 2::7] = math.nan, math.inf, -math.inf
    frames[..., ::7], frames[..., 1::7], frames[..., 2::7] = 0, 1, 0
    files = []
    for clip in (frames, broken):
        choice = choice_of(name, speed="fastest", bit_depth=depths[-1], chroma=alpha or "", alpha=bool(alpha))
        folder = tmp_path / str(len(files))
        folder.mkdir()
        sink = file_sink(target(folder, each), VideoOptions(Fraction(8), choice))
        write(sink, 6, 32, 48, bool(alpha), decode=lambda submit, clip=clip: submit(clip))
        written = sorted(sink.path.iterdir()) if sink.path.is_dir() else [sink.path]
        files.append([pixels_of(path) for path in written])
    assert files[0] == files[1]


def pixels_of(path) -> list[bytes]:
    if path.suffix == ".webp":
        return [path.read_bytes()]
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgba64le").tobytes() for frame in container.decode(video=0)]
