"""Files with any properties, saved by our node and by ComfyUI's: what its file still has, ours has, or says it has not.

ComfyUI's copies the packets of a file, so that it keeps everything.
"""

import logging
import types
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from . import in_comfyui  # noqa: F401  (before ComfyUI's modules and the nodes)
from .media import CLOCK, STEP

import folder_paths  # isort: skip
from comfy_api.latest import InputImpl  # isort: skip
from async_frame_pipeline.nodes.save_video import SaveVideoStreaming  # isort: skip
from async_frame_pipeline.pipeline.sources.times import WRONG_LAST_SECONDS  # isort: skip

FORMATS = ["mp4 (h264)", "mp4 (h265)", "mkv (h264)", "mkv (ffv1)", "mov (prores)", "webm (vp9)", "gif"]
# Codec, pixels and container.
KINDS = [
    ("libx264", "yuv420p", "mp4"),
    ("libx264", "yuv420p10le", "mp4"),
    ("libx264", "yuvj420p", "mp4"),
    ("libx264", "yuv444p", "mov"),
    ("mpeg4", "yuv420p", "mp4"),
    ("ffv1", "yuv422p10le", "mkv"),
    ("ffv1", "bgr0", "mkv"),
    ("ffv1", "gray", "mkv"),
    ("mjpeg", "yuvj422p", "mov"),
    ("prores_ks", "yuv422p10le", "mov"),
]
# Primaries, transfer and matrix.
COLOURS = [(2, 2, 2), (1, 1, 1), (1, 13, 1), (6, 6, 6), (5, 5, 5), (9, 14, 9), (12, 13, 1), (9, 16, 9), (9, 18, 9)]
SLACK = 0.021
RATE = 8000


class Node(SaveVideoStreaming):
    hidden = types.SimpleNamespace(unique_id="1", prompt={"1": {"inputs": {}}}, extra_pnginfo={})


@st.composite
def cases(draw) -> dict:
    fps = draw(st.sampled_from([8, 10, 24, 25, 30]))
    gaps = draw(st.lists(st.sampled_from([1, 1, 1, 1, 2, 3, 17]), min_size=1, max_size=12))
    colours = draw(st.sampled_from(COLOURS))
    hdr = colours[1] in (16, 18)  # whose conversion takes seconds, and has tests of its own
    return {
        "kind": draw(st.sampled_from([kind for kind in KINDS if not hdr or "10" in kind[1]])),
        "format": draw(st.sampled_from(FORMATS[:5] if hdr else FORMATS)),
        "size": (draw(st.integers(8, 40)) * 2, draw(st.integers(8, 40)) * 2),
        "aspect": draw(st.sampled_from([Fraction(1), Fraction(1), Fraction(16, 11), Fraction(8, 9), Fraction(4, 3)])),
        "colours": colours,
        "fps": fps,
        "times": [0, *(int(each) for each in np.cumsum(gaps))],
        "begins": draw(st.sampled_from([0, 0, 3, 12])),
        "last": draw(st.sampled_from([1, 1, 5])),
        "sound": draw(st.sampled_from([None, 0.0, 0.5])),
        "title": draw(st.sampled_from(["", "a title", "大きい"])),
    }


def write(path: Path, case: dict) -> Path:
    codec, pixels, _ = case["kind"]
    fps = case["fps"]
    with av.open(str(path), "w") as container:
        container.metadata.update({"title": case["title"]} if case["title"] else {})
        video = container.add_stream(codec, rate=fps)
        video.height, video.width, video.pix_fmt = *case["size"], pixels
        video.options = {"qp": "0"} if pixels == "yuv420p" and codec == "libx264" else {"qmin": "1", "qmax": "2"}
        context = video.codec_context
        # There is no place for it in Matroska, but in H.264.
        case["aspect"] = Fraction(1) if path.suffix == ".mkv" else case["aspect"]
        context.time_base, context.sample_aspect_ratio = CLOCK, case["aspect"]
        if case["last"] > 1 and codec == "libx264":
            context.max_b_frames = 0  # in an MP4 the last picture that is decoded lasts longer
        if codec == "mpeg4":
            context.time_base = Fraction(1, fps)
        if "rgb" not in pixels and "bgr" not in pixels and pixels != "gray":
            context.color_primaries, context.color_trc, context.colorspace = case["colours"]
            context.color_range = 2 if "j" in pixels else 1
        packets = []
        if case["sound"] is not None:
            track = container.add_stream("pcm_s16le" if path.suffix == ".mov" else "flac", rate=RATE, layout="mono")
        for number, time in enumerate(case["times"]):
            grey = np.full((*case["size"], 3), (20 + number * STEP) % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, "rgb24").reformat(
                format=pixels, dst_color_range="JPEG" if "j" in pixels else None
            )
            frame.time_base = context.time_base
            frame.pts = round(Fraction(time + case["begins"], fps) / frame.time_base)
            if len(frame.planes) > 1 and hasattr(frame, "color_trc") and context.colorspace != 2:
                frame.color_primaries, frame.color_trc, frame.colorspace = case["colours"]
            packets += video.encode(frame)
        packets += video.encode(None)
        last = max(packets, key=lambda packet: packet.pts)
        last.duration = round(Fraction(case["last"], fps) / last.time_base)
        container.mux(packets)
        if case["sound"] is not None:
            samples = np.zeros((1, 2 * RATE), np.int16)
            samples[:, RATE // 2 : RATE // 2 + 80] = 20000
            frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, round(case["sound"] * RATE), Fraction(1, RATE)
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def seen(path: Path) -> dict:
    """What a player shows and plays, with times from where the file begins."""
    with av.open(str(path)) as container:
        streams = {stream.type: stream for stream in container.streams if stream.type in ("video", "audio")}
        pictures, clicks, begins = [], [], []
        for frame in container.decode(streams["video"]):
            at, number = float(frame.pts * frame.time_base), float(frame.to_ndarray(format="rgb24").mean())
            begins.append(at)
            if not pictures or abs(pictures[-1][1] - number) > STEP / 2:
                pictures.append((at, number))
            end = at + float((frame.duration or 0) * frame.time_base or 1 / (streams["video"].average_rate or 1))
        context = streams["video"].codec_context
        told = {
            "aspect": context.width * float(streams["video"].sample_aspect_ratio or 1) / context.height,
            "primaries": int(context.color_primaries),
            "transfer": int(context.color_trc),
            "title": next((text for key, text in container.metadata.items() if key.lower() == "title"), ""),
        }
    if "audio" in streams:
        with av.open(str(path)) as container:
            for frame in container.decode(audio=0):
                begins.append(float(frame.pts * frame.time_base))
                loud = np.flatnonzero(np.abs(frame.to_ndarray().astype(float)[0]) > 0.3 * peak(frame))
                if len(loud) and not clicks:
                    clicks.append(begins[-1] + loud[0] / frame.sample_rate)
    zero = min(begins)
    return told | {
        "pictures": [(at - zero, number) for at, number in pictures],
        "end": end - zero,
        "clicks": [at - zero for at in clicks],
    }


def peak(frame: av.AudioFrame) -> float:
    return {"flt": 1.0, "fltp": 1.0, "s16": 2.0**15, "s16p": 2.0**15}.get(frame.format.name, 2.0**31)


PHONE = {
    "kind": ("libx264", "yuv420p", "mp4"),
    "format": "mp4 (h264)",
    "size": (48, 72),
    "aspect": Fraction(1),
    "colours": (1, 1, 1),
    "fps": 10,
    "times": [*range(10), *range(30, 40)],
    "begins": 0,
    "last": 1,
    "sound": 0.0,
    "title": "a pause",
}


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # making a failing file smaller takes minutes
    suppress_health_check=list(HealthCheck),
)
@given(case=cases())
@example(case=PHONE)
@example(case=PHONE | {"kind": ("ffv1", "bgr0", "mkv"), "format": "gif", "aspect": Fraction(16, 11), "begins": 12})
@example(case=PHONE | {"kind": ("libx264", "yuv420p10le", "mp4"), "colours": (9, 16, 9), "sound": 0.5, "last": 5})
def test_any_file(tmp_path_factory, caplog, case):
    folder = tmp_path_factory.mktemp("any")
    caplog.set_level(logging.INFO, "async-frame-pipeline")
    caplog.clear()
    kind = case["kind"][2]
    video = InputImpl.VideoFromFile(str(write(folder / f"clip.{kind}", case)))
    video.save_to(str(folder / f"stock.{kind}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_paths, "get_output_directory", lambda: str(folder))
        how = {"quality": "very high", "speed": "fastest", "audio_length": "longest"}
        shown = Node.execute(video, filename_prefix="ours", format=case["format"], **how).ui["images"][0]
    told = " ".join(line for line in caplog.messages if "of the loaded video" in line)
    stock, ours = seen(folder / f"stock.{kind}"), seen(folder / shown["filename"])
    is_gif = case["format"] == "gif"
    # Pictures: which, when, and until when.
    assert len(ours["pictures"]) == len(stock["pictures"])
    for (at, number), (stocks_at, stocks_number) in zip(ours["pictures"], stock["pictures"]):
        # The first is seen from where the file begins.
        first = (at, number) == ours["pictures"][0]
        assert at == pytest.approx(0 if first else stocks_at, abs=SLACK)
        assert number == pytest.approx(stocks_number, abs=STEP / 2 + (6 if is_gif or "converted" in told else 0))
    begins = case["begins"] / case["fps"]
    end = begins + (case["times"][-1] + case["last"]) / case["fps"]
    zero = begins if case["sound"] is None else min(begins, case["sound"])
    assert ours["end"] == pytest.approx(end - zero, abs=WRONG_LAST_SECONDS + SLACK)
    # Sound.
    if is_gif:
        assert ("sound" in told) or case["sound"] is None
    else:
        assert ours["clicks"] == pytest.approx(stock["clicks"], abs=SLACK)
    # What is said of them. ComfyUI's own loses the shape of some.
    width, height = case["size"][1], case["size"][0]
    assert ours["aspect"] == pytest.approx(width / height * case["aspect"], rel=0.05)
    for name in ("primaries", "transfer"):
        if stock[name] != 2 and not is_gif:
            assert ours[name] == stock[name] or "converted" in told
    assert ours["title"] == case["title"] or (is_gif and "titles" in told)
