"""Two inputs of the saver at a time, or more: what its help page says of each holds beside any other.

The model below is written from web/docs/SaveVideoStreaming.md, not from the code.
"""

import math
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.sinks.audio import Audio
from async_frame_pipeline.pipeline.sinks.formats import FORMATS, Choice
from async_frame_pipeline.pipeline.sinks.ping_pong import PingPong
from async_frame_pipeline.pipeline.sinks.preview import PreviewSink
from async_frame_pipeline.pipeline.sinks.spectator import Spectator
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink
from async_frame_pipeline.pipeline.sinks.unfinished import Numbered
from async_frame_pipeline.pipeline.sinks.video_file import VideoOptions, frames_until
from async_frame_pipeline.pipeline.video_spec import VideoSpec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from .test_sinks import HERE, VIDEOS, codes, each_encoder, file_sink, moving, target

SIZE = 48, 64
RATE = 48000
ALIKE = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


def level(number: int) -> float:
    """How bright frame `number` is: each otherwise than those before and after it."""
    return 0.1 + 0.8 * (number * 5 % 12) / 11


def pictures(frames: int, alpha: bool) -> torch.Tensor:
    """(C, T, H, W): each of one grey, a little orange so that a wrong matrix shows; clear on the left with alpha."""
    greys = torch.tensor([level(i) for i in range(frames)]).view(1, -1, 1, 1).expand(4, frames, *SIZE).clone()
    greys[2].mul_(0.8)
    greys[3] = 1.0
    greys[3, ..., : SIZE[1] // 2] = 0.0
    return greys if alpha else greys[:3]


@st.composite
def cases(draw) -> dict:
    each = FORMATS[draw(st.sampled_from(HERE))]
    chroma = draw(st.sampled_from(sorted(each.depths)))
    quality = draw(st.sampled_from(each.qualities))
    has_crf = each.crf_range is not None and quality != "lossless"
    return {
        "format": each.name,
        "quality": quality,
        "crf": draw(st.sampled_from([None, 20])) if has_crf else None,
        "chroma": chroma,
        "bit_depth": draw(st.sampled_from(each.depths[chroma])),
        "alpha": chroma in each.alpha and draw(st.booleans()),
        "matrix": draw(st.sampled_from(["bt709", "bt601"])),
        "full_range": draw(st.booleans()),
        "dither": draw(st.booleans()),
        "frames": draw(st.sampled_from([1, 2, 3, 7, 12])),
        "seconds": draw(st.sampled_from([None, Fraction(1, 50), Fraction(1, 3), Fraction(1), Fraction(5, 2)])),
        "audio_length": draw(st.sampled_from(["video", "longest", "shortest"])),
        "ping_pong": draw(st.booleans()),
        "repeat": draw(st.sampled_from([0, 1, 2, 3])) if not each.is_folder else 0,
        "keep_unfinished": draw(st.booleans()),
        "keep_frames": draw(st.booleans()),
    }


FPS = Fraction(12)


def numbers(case: dict) -> list[int]:
    """Which frames are in the file, in order."""
    forward = list(range(case["frames"]))
    once = forward + forward[-2:0:-1] if case["ping_pong"] else forward
    plays = max(1, case["repeat"]) if FORMATS[case["format"]].is_video else 1
    if case["audio_length"] == "shortest" and case["seconds"] is not None:
        # It ends where the sound ends: with the frame in which it does.
        return (once * plays)[: max(1, math.ceil(case["seconds"] * FPS))]
    return once * plays


def save(folder, case: dict):
    """(the sink, the preview, the frames kept) after a run as the node makes it."""
    each = FORMATS[case["format"]]
    how = ("quality", "bit_depth", "chroma", "alpha", "matrix", "full_range", "dither", "crf")
    choice = Choice(each, speed="fastest", **{name: case[name] for name in how})
    sound = None
    if case["seconds"] is not None:
        samples = round(case["seconds"] * RATE)
        sound = Audio(np.tile(np.sin(np.arange(samples, dtype=np.float32) / 20) * 0.3, (2, 1)), RATE)
    at_most = None
    if case["audio_length"] == "shortest" and sound is not None:
        at_most = frames_until(sound.seconds, FPS)
    options = VideoOptions(
        FPS,
        choice,
        sound,
        whole_audio=case["audio_length"] == "longest",
        repeat=case["repeat"],
        frames_at_most=at_most,
        keep_unfinished=case["keep_unfinished"],
    )
    sink = file_sink(target(folder, each), options)
    small = PreviewSink(Numbered(folder, "small", 1, "mp4"), options, sink.pixel_format, case["ping_pong"])
    kept = TensorSink()
    wrapped = [PingPong(sink, at_most) if case["ping_pong"] else sink, Spectator(small)]
    frames = min(case["frames"], at_most or case["frames"])
    given = pictures(case["frames"], case["alpha"])[:, :frames]
    spec = VideoSpec(frames, *SIZE, torch.device("cpu"), zero_centred=False, alpha=case["alpha"])
    engine.run(lambda submit: submit(given), spec, wrapped + [kept] * case["keep_frames"])
    assert not case["keep_frames"] or torch.equal(kept.frames_thwc[..., :3], given[:3].permute(1, 2, 3, 0))
    return sink, small


def read(path) -> tuple[list[av.VideoFrame], Fraction, Fraction | None]:
    """Frames, when the last of them ends, and the length of the sound."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        shown = list(container.decode(video))
        end = shown[-1].pts * shown[-1].time_base + 1 / FPS
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return shown, end, None
        stream = container.streams.audio[0]
        blocks = list(container.decode(stream))
        return shown, end, Fraction(sum(block.samples for block in blocks), stream.rate)


def clear_and_opaque(path, encoder: str) -> list[bool]:
    """Of each frame: whether its left half is clear and its right one opaque."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        # FFmpeg's own decoder of VP9 knows of no alpha.
        decoder = av.CodecContext.create(encoder, "r") if "vp9" in encoder else stream.codec_context
        for packet in container.demux(stream):
            for frame in decoder.decode(packet if packet.size else None):
                alpha = frame.to_ndarray(format="rgba")[..., 3] if frame.format.name == "bgra" else codes(frame)[3]
                alpha = alpha.view(np.uint16) if frame.format.components[3].bits > 8 else alpha
                full = 2 ** frame.format.components[3].bits - 1
                left, right = alpha[8:-8, 8 : SIZE[1] // 2 - 8], alpha[8:-8, SIZE[1] // 2 + 8 : SIZE[1] - 8]
                found.append(bool((left <= full * 0.01).all() and (right >= full * 0.99).all()))
    return found


def grey_of(picture: np.ndarray) -> np.ndarray:
    """The red of a picture's opaque half, in [0, 1]."""
    return picture[8:-8, SIZE[1] // 2 + 8 : -8, 0].astype(float) / 255


def shows(picture: np.ndarray, number: int, error: float) -> bool:
    return bool(np.abs(grey_of(picture) - level(number)).max() <= error)


# A short clip again and again until the music ends.
LOOPED = {
    "format": "mp4 (h264)",
    "quality": "high",
    "crf": None,
    "chroma": "4:2:0",
    "bit_depth": 8,
    "alpha": False,
    "matrix": "bt709",
    "full_range": False,
    "dither": False,
    "frames": 7,
    "seconds": Fraction(5, 2),
    "audio_length": "shortest",
    "ping_pong": True,
    "repeat": 3,
    "keep_unfinished": True,
    "keep_frames": True,
}


@settings(max_examples=80, **ALIKE)
@example(case=LOOPED)
@example(case=LOOPED | {"format": "webm (vp9)", "alpha": True})
@example(case=LOOPED | {"format": "mkv (ffv1)", "alpha": True, "chroma": "rgb", "bit_depth": 16})
@example(case=LOOPED | {"format": "mov (prores)", "alpha": True, "chroma": "4:4:4", "bit_depth": 10})
@given(case=cases())
def test_all_that_was_asked_for_holds_together(tmp_path_factory, case):
    folder = tmp_path_factory.mktemp("pairs")
    each, wanted = FORMATS[case["format"]], numbers(case)
    sink, small = save(folder, case)
    # 0.11 between two neighbours of `level`.
    error = 0.06 if each.lossy and case["quality"] != "lossless" else 0.03
    if each.is_folder:
        paths = sorted(sink.path.iterdir())
        assert [path.stem for path in paths] == [f"{i:05}" for i in range(1, len(wanted) + 1)]
    elif not each.is_video:
        with Image.open(sink.path) as picture:
            seen = [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(picture)]
            shown_seconds = 0
            for frame in ImageSequence.Iterator(picture):
                frame.load()
                shown_seconds += Fraction(int(frame.info["duration"]), 1000)
        # Players show equal frames as one.
        assert abs(shown_seconds - len(wanted) / FPS) <= Fraction(1, 100) or len(wanted) == 1
        if len(seen) == len(wanted):
            assert all(shows(picture, number, error) for picture, number in zip(seen, wanted))
    else:
        shown, end, heard = read(sink.path)
        assert len(shown) == len(wanted) and abs(end - len(wanted) / FPS) <= Fraction(1, 1000)
        reds = [frame.to_ndarray(format="rgb24") for frame in shown]
        assert all(shows(picture, number, error) for picture, number in zip(reds, wanted))
        first = shown[0]
        is_rgb = case["chroma"] == "rgb"
        full_range = case["full_range"] and each.encoder.name != "prores_ks"  # which is always limited
        assert first.color_range == (2 if is_rgb or full_range else 1)
        assert first.colorspace == (0 if is_rgb else {"bt709": 1, "bt601": 6}[case["matrix"]])
        if each.encoder.name != "prores_ks":  # whose decoder gives 12 bits
            assert first.format.components[0].bits == case["bit_depth"]
        if case["alpha"]:
            assert clear_and_opaque(sink.path, each.encoder.name) == [True] * len(wanted)
        assert (heard is None) == (case["seconds"] is None)
        if heard is not None:
            seconds = len(wanted) / FPS
            seconds = max(seconds, case["seconds"]) if case["audio_length"] == "longest" else seconds
            assert abs(heard - seconds) <= Fraction(1, 12), "to one frame"
    shown, end, heard = read(small.path)
    assert len(shown) == len(wanted) and end == len(wanted) / FPS
    assert (heard is None) == (case["seconds"] is None)
    if not case["alpha"]:
        reds = [frame.to_ndarray(format="rgb24") for frame in shown]
        assert all(shows(picture, number, error) for picture, number in zip(reds, wanted)), "the preview's colours"


@pytest.mark.parametrize("name", each_encoder(VIDEOS))
def test_a_loop_ends_at_any_frame(tmp_path, name):
    """Packets that are played again are cut, and no frame before that needs one after."""
    each = FORMATS[name]
    choice = Choice(each, speed="medium", bit_depth=each.depths[each.default_chroma][0])
    size = 48, 96  # x265 encodes what is 64 wide frame by frame
    turning = moving(20, *size)
    for end in (1, 6, 11, 19):
        sink = file_sink(target(tmp_path, each), VideoOptions(FPS, choice, repeat=4, frames_at_most=40 + end))
        spec = VideoSpec(20, *size, torch.device("cpu"), zero_centred=False)
        engine.run(lambda submit: submit(turning), spec, [sink])
        shown, _, _ = read(sink.path)
        assert len(shown) == 40 + end
        planes = [codes(frame) for frame in shown]
        same = [all(map(np.array_equal, each, planes[i % 20])) for i, each in enumerate(planes)]
        assert all(same), "the frames of the first turn"


def test_a_sliver_of_sound_needs_no_frame():
    """A file says its times in whole milliseconds: sound of 12 frames is up to 1 ms longer than they are."""
    fps = Fraction(24)
    assert frames_until(12 / fps, fps) == frames_until(12 / fps + Fraction(1, 1000), fps) == 12
    assert frames_until(12 / fps + Fraction(1, 100), fps) == 13 and frames_until(Fraction(1, 10**6), fps) == 1
