"""Files whose pictures and sound have times of their own: everything is shown and heard when it was."""

import math
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.sinks.formats import FORMATS, Choice
from async_frame_pipeline.pipeline.sinks.ping_pong import PingPong
from async_frame_pipeline.pipeline.sinks.video_file import VideoFileSink, VideoOptions
from async_frame_pipeline.pipeline.sources import spec_of
from async_frame_pipeline.pipeline.sources.file import FileSource
from async_frame_pipeline.pipeline.sources.times import MOST_RATE, Places, constant_rate
from PIL import Image

from .media import STEP, chunks_of, numbers_of, write_file

RATE = 8000
# Ten pictures a second for a second, a pause to 3.0 s, ten for another second.
PAUSE = [i / 10 for i in range(10)] + [3 + i / 10 for i in range(10)]
SEEN = [*range(10), *[9] * 20, *range(10, 20)]  # which picture is seen in each tenth of a second
KINDS = [("ffv1", "bgr0", "mkv"), ("libx264", "yuv420p", "mp4"), ("libvpx-vp9", "yuv420p", "webm")]


def clicks(seconds: float, *at: float) -> np.ndarray:
    """(1, n) int16: silence, but for a loud 10 ms at each of these times."""
    samples = np.zeros((1, round(seconds * RATE)), np.int16)
    for each in at:
        samples[:, round(each * RATE) : round((each + 0.01) * RATE)] = 20000
    return samples


def heard_at(path_or_sound) -> list[float]:
    """When the clicks begin, in seconds."""
    sound = path_or_sound if hasattr(path_or_sound, "pieces") else FileSource(path_or_sound).sound
    loud = np.abs(np.concatenate(list(sound.pieces()), axis=1)[0]) > 0.3
    starts = np.flatnonzero(loud & ~np.concatenate([[False], loud[:-1]]))
    # What a lossy codec leaves of one click may dip in between.
    return [float(s) / sound.sample_rate for i, s in enumerate(starts) if i == 0 or s - starts[i - 1] > 400]


def shown(path) -> list[tuple[float, int]]:
    """What a player shows: (seconds, which picture), each once, when it changes."""
    changes = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            number = round(float(frame.to_ndarray(format="rgb24").mean()) / STEP)
            if not changes or changes[-1][1] != number:
                changes.append((float(frame.pts * frame.time_base), number))
    return changes


def save(source, path, format="mp4 (h264)", ping_pong=False, **options):
    choice = Choice(FORMATS[format], "high", bit_depth=10 if "prores" in format else 8)
    sink = VideoFileSink(path, VideoOptions(source.fps, choice, source.sound, **options))
    engine.run(source.decode, spec_of(source), [PingPong(sink) if ping_pong else sink])
    return path


# -- a rate that varies -----------------------------------------------------------------------------


@pytest.mark.parametrize("codec, pixels, kind", KINDS)
def test_pictures_keep_their_times_at_a_constant_rate(tmp_path, codec, pixels, kind):
    source = FileSource(write_file(tmp_path / f"clip.{kind}", 20, 10, codec, pixels, times=PAUSE))
    assert (source.fps, source.frames) == (10, 40)
    for _ in range(2):
        assert numbers_of(chunks_of(source)) == SEEN


@pytest.mark.parametrize(
    "format", ["mp4 (h264)", "mkv (ffv1)", "webm (vp9)", "mov (prores)", "gif", "webp (animated)", "mp4 (av1)"]
)
def test_the_picture_at_three_seconds_is_saved_at_three_seconds(tmp_path, format):
    path = write_file(tmp_path / "clip.mkv", 20, 10, size=(64, 64), times=PAUSE, sounds=(clicks(4, 0.5, 3),), rate=RATE)
    saved = save(FileSource(path), tmp_path / f"saved.{FORMATS[format].extension}", format)
    if format == "webp (animated)":  # which FFmpeg writes and cannot read
        picture, at = Image.open(saved), 0
        for number in range(picture.n_frames):
            picture.seek(number)
            if round(np.asarray(picture.convert("RGB")).mean() / STEP) == 10:
                break
            at += picture.info["duration"]
        assert at == 3000
        return
    changes = shown(saved)
    assert [number for _, number in changes] == list(range(20))
    assert np.abs(np.array([at for at, _ in changes]) - PAUSE).max() < 0.011  # GIF counts hundredths
    if FORMATS[format].audio:
        assert np.abs(np.array(heard_at(saved)) - (0.5, 3)).max() < 0.03


def test_there_and_back_and_again(tmp_path):
    source = FileSource(write_file(tmp_path / "clip.mkv", 20, 10, times=PAUSE))
    saved = save(source, tmp_path / "saved.mp4", ping_pong=True, repeat=2)
    with av.open(str(saved)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2 * (40 + 38)


@pytest.mark.parametrize(
    "start, end, numbers",
    [
        (0, 2, SEEN[:20]),
        (0.5, 3.5, SEEN[5:35]),
        (2, math.inf, SEEN[20:]),  # it begins in the pause, with what is seen then
        (1.5, 2.5, [9] * 10),  # nothing begins in it
        (2.95, 3.2, [10, 11]),
        (3, math.inf, range(10, 20)),
    ],
)
@pytest.mark.parametrize("kind, codec, pixels", [("mkv", "ffv1", "bgr0"), ("mp4", "libx264", "yuv420p")])
def test_a_part_shows_what_is_seen_then(tmp_path, kind, codec, pixels, start, end, numbers):
    path = write_file(
        tmp_path / f"clip.{kind}", 20, 10, codec, pixels, times=PAUSE, sounds=(clicks(4, 3),), sound_codec="flac"
    )
    source = FileSource(path, start, end)
    assert (source.fps, source.frames) == (10, len(numbers))
    assert numbers_of(chunks_of(source)) == list(numbers)
    assert all(abs(at - (3 - start)) < 0.002 for at in heard_at(source.sound))


@pytest.mark.parametrize("last, frames", [(0.1, 10), (2, 29)])
def test_the_last_picture_lasts_as_long_as_it_does(tmp_path, last, frames):
    path = write_file(tmp_path / "clip.mp4", 10, 10, "libx264", "yuv420p", last=last)
    source = FileSource(path)
    assert source.frames == frames and numbers_of(chunks_of(source)) == [*range(9), *[9] * (frames - 9)]


def test_a_pause_of_an_hour_costs_no_memory(tmp_path):
    path = write_file(tmp_path / "clip.mkv", 3, 10, times=[0, 0.1, 3600])
    source, seen, chunks = FileSource(path), 0, set()

    def submit(chunk):
        nonlocal seen
        seen += 1
        chunks.add(chunk.data_ptr())

    source.decode(submit)
    assert source.frames == seen == 36001 and len(chunks) <= 3


# -- which rate -------------------------------------------------------------------------------------


def rate(begins, *stated) -> Fraction:
    return constant_rate(np.asarray(begins, float), [Fraction(each) for each in stated])


@pytest.mark.parametrize("fps", ["24000/1001", "30000/1001", "25", "1/2", "480", "1000"])
@pytest.mark.parametrize("ticks", [1000, 90_000])
def test_a_regular_file_keeps_its_rate(fps, ticks):
    fps = Fraction(fps)
    if fps * 2 > ticks:
        return
    begins = np.rint(np.arange(500) / float(fps) * ticks) / ticks
    assert rate(begins, fps, 1000, 90_000) == fps


def test_a_rate_beside_a_round_one_is_kept():
    """Matroska's milliseconds, which FFmpeg takes for 1 a second."""
    fps = Fraction(1001, 1000)
    assert rate(np.rint(np.arange(12) / float(fps) * 1000) / 1000, fps, 1) == fps


def test_an_average_that_drifts_is_not_taken_for_the_rate():
    begins = np.delete(np.arange(3000), 1500) / 30
    assert rate(begins, Fraction(2999, 100), 30) == 30


@pytest.mark.parametrize("stated", [(28, 90_000), (28, 30, 90_000), (28,)])
def test_pictures_of_a_phone_take_the_nearest_place_of_its_rate(stated):
    """Up to 7 ms too early or late, and some are missing: all are shown, within half a frame of their time."""
    random = np.random.default_rng(1)
    begins = (np.arange(900) + random.uniform(-0.2, 0.2, 900)) / 30
    begins = np.round(np.delete(begins, random.choice(np.arange(1, 899), 60, replace=False)) - begins[0], 5)
    fps = rate(begins, *stated)
    assert fps == 30
    places = Places(np.arange(840), begins, 30.0, fps)
    assert places.frames == 900 and all(len(range(*places.of(i))) >= 1 for i in range(840))


@pytest.mark.parametrize("stated", [(90_000,), (50, 90_000), (90_000, 90_000), (Fraction(1, 100),), (), (10_000_000,)])
def test_no_rate_explodes(stated):
    begins = np.cumsum(np.random.default_rng(2).uniform(0.0001, 0.2, 200))
    fps = rate(begins, *stated)
    assert 0 < fps <= 60
    assert Places(np.arange(200), begins, begins[-1] + 0.1, fps).frames <= 60 * begins[-1] + 70


def test_a_short_last_picture_is_not_made_a_long_one():
    assert rate([0, 0.7, 1.4], Fraction(10, 7), 25) == Fraction(10, 7)
    assert 24 <= constant_rate(np.array([0, 0.7, 1.4]), [Fraction(10, 7)], 1.44) <= 60
    assert constant_rate(np.arange(20) / 24, [Fraction(24)], 19 / 24 + 1e-5) == 24, "a length that was made up"


def test_a_file_that_claims_90000(tmp_path):
    """Two pictures a tick apart, and then one each second."""
    times = [0, 1 / 90_000, *range(1, 8)]
    source = FileSource(write_file(tmp_path / "clip.mp4", 9, 10, "libx264", "yuv420p", times=times))
    assert source.fps <= MOST_RATE and source.frames < 700
    changes = numbers_of(chunks_of(source))
    assert [changes.index(number) / source.fps for number in range(2, 9)] == list(range(1, 8))


# -- where it begins --------------------------------------------------------------------------------


@pytest.mark.parametrize("codec, pixels, kind", KINDS[:2])
def test_pictures_that_begin_after_the_sound(tmp_path, codec, pixels, kind):
    times = [1 + i / 10 for i in range(10)]
    sounds = (clicks(2, 0.2, 1.5),)
    path = write_file(
        tmp_path / f"clip.{kind}", 10, 10, codec, pixels, times=times, sounds=sounds, sound_codec="flac", rate=RATE
    )
    source = FileSource(path)
    assert numbers_of(chunks_of(source)) == [*[0] * 10, *range(10)]
    assert np.abs(np.array(heard_at(source.sound)) - (0.2, 1.5)).max() < 0.002


@pytest.mark.parametrize("codec, pixels, kind", KINDS[:2])
@pytest.mark.parametrize("start", [0, 0.5, 1.5])
def test_sound_that_begins_after_the_pictures(tmp_path, codec, pixels, kind, start):
    path = write_file(
        tmp_path / f"clip.{kind}",
        30,
        10,
        codec,
        pixels,
        sounds=(clicks(2, 0.75),),
        sound_codec="flac",
        rate=RATE,
        sound_at=1,
    )
    source = FileSource(path, start)
    assert np.abs(np.array(heard_at(source.sound)) - (1.75 - start)).max() < 0.002
    assert numbers_of(chunks_of(source)) == list(range(int(start * 10), 30))


@pytest.mark.parametrize("shift", [-0.5, 1.5])
def test_a_clock_that_does_not_begin_at_zero(tmp_path, shift):
    """As in recordings cut out of a broadcast."""
    times = [shift + i / 10 for i in range(10)]
    sounds = (clicks(1, 0.4),)
    path = tmp_path / "clip.mkv"
    how = {"sound_codec": "flac", "rate": RATE, "sound_at": shift, "options": {"avoid_negative_ts": "0"}}
    write_file(path, 10, 10, times=times, sounds=sounds, **how)
    source = FileSource(path)
    assert numbers_of(chunks_of(source)) == list(range(10))
    assert np.abs(np.array(heard_at(source.sound)) - 0.4).max() < 0.002


def test_what_an_edit_list_cuts_is_cut(tmp_path):
    """The first half second of an MP4 whose track begins there (ISO/IEC 14496-12, 8.6.6)."""
    path = write_file(tmp_path / "clip.mp4", 20, 10, "libx264", "yuv420p", options={"use_editlist": "1"})
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4 + 4 + 4
    length, media = struct.unpack(">Ii", data[at : at + 8])
    timescale = struct.unpack(">I", data[data.index(b"mdhd") + 16 : data.index(b"mdhd") + 20])[0]
    data[at : at + 8] = struct.pack(">Ii", length * 3 // 4, media + timescale // 2)
    path.write_bytes(data)
    assert numbers_of(chunks_of(FileSource(path))) == list(range(5, 20))


def test_a_pause_in_the_sound(tmp_path):
    """What comes after it is heard when it was."""
    path = tmp_path / "clip.mkv"
    write_file(path, 30, 10, sounds=(clicks(1, 0.5),), rate=RATE)
    again = tmp_path / "again.mkv"
    with av.open(str(path)) as source, av.open(str(again), "w") as target:
        streams = {each.index: target.add_stream_from_template(each, opaque=True) for each in source.streams}
        packets = [packet for packet in source.demux() if packet.dts is not None]
        for packet in [*packets]:
            if packet.stream.type == "audio":
                later = av.Packet(bytes(packet))
                later.pts = later.dts = packet.pts + round(2 / packet.time_base)
                later.time_base, later.duration, later.stream = packet.time_base, packet.duration, packet.stream
                packets.append(later)
        for packet in packets:
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    source = FileSource(again)
    assert np.abs(np.array(heard_at(source.sound)) - (0.5, 2.5)).max() < 0.002
    assert source.sound.seconds == 3


# -- times that are not there, or wrong -------------------------------------------------------------


@pytest.mark.parametrize("start, numbers", [(0, range(20)), (0.4, range(10, 20))])
def test_a_bare_stream_has_an_order_and_no_times(tmp_path, start, numbers):
    """FFmpeg takes 25 a second for them."""
    source = FileSource(write_file(tmp_path / "clip.h264", 20, 10, "libx264", "yuv420p"), start)
    assert (source.fps, source.frames) == (25, len(numbers)) and numbers_of(chunks_of(source)) == list(numbers)


def test_an_avi(tmp_path):
    """Its times are those of decoding, a picture or more early."""
    source = FileSource(write_file(tmp_path / "clip.avi", 20, 10, "libx264", "yuv420p"))
    assert source.fps == 10 and numbers_of(chunks_of(source)) == list(range(20))


def test_of_pictures_at_one_time_one_is_seen(tmp_path):
    times = [0, 0.1, 0.2, 0.2, 0.3, 0.4, 0.5]
    path = write_file(tmp_path / "clip.mkv", 7, 10, times=times)
    assert numbers_of(chunks_of(FileSource(path))) == [0, 1, 2, 4, 5, 6]


def test_times_that_go_back_end_nothing(tmp_path):
    """A picture that comes too late to be seen is left out."""
    path, broken = write_file(tmp_path / "clip.mov", 7, 10, "png", "rgb24"), tmp_path / "broken.mov"
    with av.open(str(path)) as source, av.open(str(broken), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux():
            if packet.size:
                tenth = [0, 1, 2, 3, 1, 4, 5][round(packet.pts * packet.time_base * 10)]
                packet.pts = round(Fraction(tenth, 10) / packet.time_base)
                packet.dts -= round(Fraction(4, 10) / packet.time_base)
                packet.stream = stream
                target.mux(packet)
    source = FileSource(broken)
    assert numbers_of(chunks_of(source)) == [0, 1, 2, 3, 5, 6] and source.frames == 6


def test_pictures_all_at_one_time_are_taken_as_regular(tmp_path):
    path = write_file(tmp_path / "clip.mkv", 8, 10, times=[0] * 8)
    assert numbers_of(chunks_of(FileSource(path))) == list(range(8))


@pytest.mark.parametrize(
    "times, sound_at, numbers",
    [([0, 0.1, 1e6], 0, [0, 1, 2]), ([1e6, 1e6 + 0.1, 1e6 + 0.2], 0, [0, 1, 2]), ([0, 0.1, 0.2], 1e6, [0, 1, 2])],
    ids=["a gap", "pictures later", "sound later"],
)
def test_a_time_that_cannot_be_makes_no_endless_file(tmp_path, times, sound_at, numbers):
    path = tmp_path / "clip.mkv"
    how = {"sound_codec": "flac", "rate": RATE, "sound_at": sound_at, "options": {"avoid_negative_ts": "0"}}
    write_file(path, 3, 10, times=times, sounds=(clicks(1, 0.4),), **how)
    source = FileSource(path)
    assert source.frames < 100 and 8 <= source.fps <= 30, "before anything is decoded"
    assert numbers_of(chunks_of(source)) == numbers
    assert source.sound.seconds == 1 and np.abs(np.array(heard_at(source.sound)) - 0.4).max() < 0.002
    assert "the times of its pictures, one of which cannot be right" in source.stated.left_out


def test_where_pictures_turn_out_to_begin_the_sound_begins_anew(tmp_path):
    """A damaged file, whose first pictures cannot be decoded and came before the sound."""
    sounds = (clicks(1, 0.4),)
    source = FileSource(write_file(tmp_path / "clip.mkv", 20, 10, sounds=sounds, rate=RATE, sound_at=1))
    pictures = source._pictures
    assert source.sound.seconds == 2
    source._pictures = lambda: (each for each in pictures() if each[0] * source._tick >= 1)
    source.sound = None  # replaced by another: the file's own times count
    sound = source._sound
    source.count_by_decoding()
    assert source.frames == 10 and sound.seconds == 1
    assert np.abs(np.array(heard_at(sound)) - 0.4).max() < 0.002


def test_a_file_of_which_nothing_can_be_decoded_any_more_is_refused(tmp_path):
    source = FileSource(write_file(tmp_path / "clip.mkv", 4, 10))
    source._pictures = lambda: (each for each in ())
    with pytest.raises(ValueError, match="no frames between"):
        source.count_by_decoding()
