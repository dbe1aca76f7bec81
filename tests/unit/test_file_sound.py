"""The sound of files: which samples come of which part, and when the file is open."""

import math
import types
import typing
from collections.abc import Generator
from fractions import Fraction

import av
import numpy as np
import pytest
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.sinks.audio import Audio
from async_frame_pipeline.pipeline.sinks.formats import FORMATS, Choice
from async_frame_pipeline.pipeline.sinks.video_file import VideoFileSink, VideoOptions
from async_frame_pipeline.pipeline.sources import spec_of
from async_frame_pipeline.pipeline.sources.file import FileSource
from async_frame_pipeline.pipeline.sources.file_sound import FileSound
from async_frame_pipeline.pipeline.sources.part import Part

from .media import ramp, times_open, write_file

RATE = 8000


def heard(sound) -> np.ndarray:
    """(channels, n) int16."""
    return np.rint(np.concatenate(list(sound.pieces()), axis=1) * 32768).astype(np.int16)


@pytest.mark.parametrize("codec, kind", [("pcm_s16le", "mov"), ("flac", "mkv")])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("start, end", [(0.0, math.inf), (0.5, math.inf), (0.0, 1.0), (0.51, 1.37), (1.8, 99.0)])
def test_a_part_is_sample_for_sample_that_part(tmp_path, codec, kind, channels, start, end):
    samples = ramp(2 * RATE, channels)
    path = write_file(tmp_path / f"clip.{kind}", 16, sounds=(samples,), sound_codec=codec, rate=RATE)
    sound = FileSource(path, start, end).sound
    part = samples[:, round(start * RATE) : None if math.isinf(end) else round(end * RATE)]
    # Matroska counts milliseconds.
    slack = 0 if kind == "mov" else RATE // 1000
    got = heard(sound)
    assert (sound.channels, sound.sample_rate) == (channels, RATE)
    assert abs(got.shape[1] - part.shape[1]) <= slack and sound.seconds == Fraction(got.shape[1], RATE)
    off = int(got[0, 0]) - int(part[0, 0])
    assert abs(off) <= slack
    length = min(got.shape[1], part.shape[1]) - slack
    assert np.array_equal(got[:, :length], part[:, :length] + off * np.arange(1, channels + 1)[:, None])


def test_it_can_be_read_again(tmp_path):
    sound = FileSound(Part(write_file(tmp_path / "clip.mov", 8, sounds=(ramp(RATE),))))
    assert np.array_equal(heard(sound), heard(sound))


def test_of_several_streams_the_last(tmp_path):
    first, last = ramp(RATE), ramp(RATE, 2)
    sound = FileSource(write_file(tmp_path / "clip.mkv", 8, sounds=(first, last))).sound
    assert np.array_equal(heard(sound), last)


@pytest.mark.parametrize("sounds, start", [((), 0.0), ((ramp(RATE // 2),), 0.75)], ids=["none", "over before the part"])
def test_silence_is_no_sound(tmp_path, sounds, start):
    assert FileSource(write_file(tmp_path / "clip.mov", 8, sounds=sounds), start).sound is None


def test_a_damaged_place_is_silent_and_what_follows_keeps_its_time(tmp_path):
    samples = ramp(5 * RATE) % 97 * 100
    path = write_file(
        tmp_path / "clip.mp4",
        8,
        codec="libx264",
        pixels="yuv420p",
        sounds=(samples,),
        sound_codec="flac",
        options={"movflags": "faststart"},
    )
    data = bytearray(path.read_bytes())
    data[-3000:-2000] = bytes(1000)
    path.write_bytes(data)
    got = heard(FileSource(path).sound)
    assert got.shape == samples.shape
    wrong = np.flatnonzero(got[0] != samples[0])
    assert 0 < len(wrong) < 4 * RATE and wrong[0] > RATE and wrong[-1] < 5 * RATE - 100
    assert not got[0, wrong].any()


def test_a_file_that_ends_too_early_ends_there(tmp_path):
    path = write_file(
        tmp_path / "clip.mp4",
        40,
        codec="libx264",
        pixels="yuv420p",
        sounds=(ramp(5 * RATE),),
        sound_codec="aac",
        options={"movflags": "faststart"},
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10])
    source = FileSource(path)
    assert 1 < source.sound.seconds < 5


def test_the_file_is_open_while_it_is_read_and_no_longer(tmp_path):
    path = write_file(tmp_path / "clip.mov", 8, sounds=(ramp(5 * RATE),))
    sound = FileSound(Part(path))
    assert times_open(path) == 0
    pieces = sound.pieces()
    first = next(pieces)
    assert times_open(path) == 1 and first.shape[1] < RATE, "a piece, not all of it"
    pieces.close()
    assert times_open(path) == 0
    assert sound.seconds == 5 and times_open(path) == 0


@pytest.mark.parametrize("kind", [Audio, FileSound])
def test_sound_is_declared_to_be_what_can_be_closed(kind):
    """A track closes what it reads from. Declared as any iterator, another sound without `close` would do, and fail."""
    assert typing.get_origin(typing.get_type_hints(kind.pieces)["return"]) is Generator


def test_sound_goes_into_a_file_as_it_is_read(tmp_path):
    samples = ramp(2 * RATE)
    source = FileSource(write_file(tmp_path / "clip.mov", 16, sounds=(samples,)), 0.5, 1.5)
    target = tmp_path / "part.mov"
    options = VideoOptions(source.fps, Choice(FORMATS["mov (prores)"], "high", bit_depth=10), source.sound)
    engine.run(source.decode, spec_of(source), [VideoFileSink(target, options)])
    assert np.array_equal(heard(FileSource(target).sound), samples[:, RATE // 2 : 3 * RATE // 2])


def test_a_damaged_place_is_given_in_pieces(tmp_path):
    """However long its packet says it is."""
    sound = FileSound(Part(write_file(tmp_path / "clip.mov", 8, sounds=(ramp(RATE),))))

    class Damaged:
        pts, time_base, duration = 0, Fraction(1), 10**12

        def decode(self):
            raise av.error.InvalidDataError(1, "damaged")

    container = types.SimpleNamespace(demux=lambda stream: [Damaged()])
    lengths = [piece.shape[1] for _, piece in sound._decoded(container, types.SimpleNamespace(time_base=Fraction(1)))]
    assert max(lengths) <= 48000 and sum(lengths) <= 4 * 3600 * RATE
