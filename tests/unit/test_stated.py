"""What a loaded file says of itself, through the saver's own node in this process: kept, or converted and told."""

import contextlib
import json
import logging
import struct
import types
import typing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from . import in_comfyui  # noqa: F401  (before ComfyUI's modules and the nodes)
from .media import chunks_of, numbers_of, ramp, write_file

import folder_paths  # isort: skip
from comfy_api.latest import InputImpl  # isort: skip
from async_frame_pipeline.nodes import save_video, video_source  # isort: skip
from async_frame_pipeline.nodes.save_video import SaveVideoStreaming  # isort: skip
from async_frame_pipeline.pipeline.sinks.formats import FORMATS  # isort: skip
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink  # isort: skip
from async_frame_pipeline.pipeline.sources import file  # isort: skip
from async_frame_pipeline.pipeline.sources.file import FileSource  # isort: skip
from async_frame_pipeline.pipeline.sources.stated import stated_in  # isort: skip

VIDEOS = [name for name, each in FORMATS.items() if each.is_video and "nvenc" not in name]
BOXED = [name for name in VIDEOS if FORMATS[name].container.in_fragments]
OTHERS = ["gif", "webp (animated)", "png sequence"]
HDR10 = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


class SideData(typing.NamedTuple):
    type: types.SimpleNamespace
    data: bytes

    def __bytes__(self) -> bytes:
        return self.data


class Node(SaveVideoStreaming):
    hidden = types.SimpleNamespace(unique_id="1", prompt={"1": {"inputs": {}}}, extra_pnginfo={"workflow": {"n": 1}})


@pytest.fixture
def save(tmp_path, monkeypatch, caplog):
    """Load Video -> Save Video (Streaming): (what was saved, what was told)."""
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    caplog.set_level(logging.INFO, "async-frame-pipeline")

    def saved(path: Path, format: str, start: float = 0, duration: float = 0, **inputs) -> tuple[Path, str]:
        caplog.clear()
        video = InputImpl.VideoFromFile(str(path), start_time=start, duration=duration)
        # A preview of HDR takes seconds, and has a test of its own.
        inputs = {"quality": "high", "speed": "fastest", "preview": False} | inputs
        ui = Node.execute(video, filename_prefix="saved", format=format, **inputs).ui
        shown = ui["images"][0]
        told = [line for line in caplog.messages if "of the loaded video" in line]
        assert len(told) <= 1
        notes = json.loads(ui["async_frame_pipeline"][0])["notes"]
        assert len(notes) == len(told) and all(line.endswith(note) for line, note in zip(told, notes))
        return Path(tmp_path / "output", shown["subfolder"], shown["filename"]), "".join(told)

    return saved


# Luma weights of red and blue, ITU-T H.273, table 4; what is not told is BT.601's.
WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def codes(rgb, matrix: int, bits: int, full: bool) -> list[int]:
    """Y, Cb and Cr of one colour. Source: ITU-T H.273, equations 24 to 40."""
    red, green, blue = rgb
    kr, kb = WEIGHTS.get(matrix, WEIGHTS[5])
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / 2 / (1 - kb), (red - luma) / 2 / (1 - kr)
    if full:
        most = (1 << bits) - 1
        return [round(luma * most), *(min(most, round(each * most + (1 << (bits - 1)))) for each in chroma)]
    step = 1 << (bits - 8)
    return [round((219 * luma + 16) * step), *(round((224 * each + 128) * step) for each in chroma)]


def write_colours(
    path: Path, rgb, pixels="yuv444p10le", codec="ffv1", primaries=2, transfer=2, matrix=1, full=False, **own
) -> Path:
    """Pictures of one colour, in these pixels, and tagged so. To the matrix it is converted, the rest is told."""
    bits = av.VideoFormat(pixels).components[0].bits
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 64, pixels, own
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = primaries, transfer, matrix
        context.color_range = 2 if full else 1
        # Of one or two pictures, x265 makes up the times.
        for number in range(8 if codec == "libx265" else 2):
            frame = av.VideoFrame(64, 64, pixels)
            for plane, code in zip(frame.planes, codes(rgb, matrix, bits, full)):
                dtype = np.uint16 if bits > 8 else np.uint8
                plane.update(np.full(plane.buffer_size // np.dtype(dtype).itemsize, code, dtype).tobytes())
            frame.colorspace, frame.color_range = matrix, 2 if full else 1
            frame.pts, frame.time_base = number, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def tags(path: Path) -> tuple[int, int, int, int]:
    """Primaries, transfer, matrix and range."""
    with av.open(str(path)) as container:
        next(container.decode(video=0))
        context = container.streams.video[0].codec_context
        return tuple(
            int(each) for each in (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        )


def first_colour(path: Path) -> np.ndarray:
    """In the middle of the first picture, 0 to 1, by the file's own tags."""
    chunks = []
    FileSource(path).decode(chunks.append)
    height, width = chunks[0].shape[2:]
    return chunks[0][:3, 0, height // 2, width // 2].numpy()


def size(path: Path) -> tuple[int, int]:
    """Width and height as stored."""
    if path.suffix in (".webp", ".gif", ".png"):
        return Image.open(path).size
    with av.open(str(path)) as container:
        return container.streams.video[0].width, container.streams.video[0].height


def shape(path: Path) -> float:
    """Width by height of the picture as players show it."""
    width, height = size(path)
    if path.suffix in (".webp", ".gif", ".png"):
        return width / height
    with av.open(str(path)) as container:
        return width * float(container.streams.video[0].sample_aspect_ratio or 1) / height


# -- pixels that are not square ---------------------------------------------------------------------


def wide(path: Path, aspect=Fraction(16, 11), turned=False, **how) -> Path:
    def prepare(video, tracks):
        video.codec_context.sample_aspect_ratio = aspect

    return write_file(path, 4, 8, "libx264", "yuv420p", size=(48, 72), prepare=prepare, **how)


@pytest.mark.parametrize("format", [*VIDEOS, *OTHERS])
@pytest.mark.parametrize("aspect", [Fraction(16, 11), Fraction(8, 9)], ids=str)
def test_the_shape_of_pixels_is_told_or_they_are_scaled(save, tmp_path, format, aspect):
    if aspect < 1 and not format.startswith(("mp4 (h264", "webm (vp9", "gif")):
        return
    path, told = save(wide(tmp_path / "clip.mp4", aspect), format)
    assert shape(path) == pytest.approx(1.5 * aspect, rel=0.02)
    is_told = format.startswith(("mp4", "mov")) or format in ("mkv (h264)", "mkv (h265)")
    assert (size(path) == (72, 48)) == is_told and ("scaled to square" in told) != is_told
    if not is_told:
        assert size(path)[0] >= 72 and size(path)[1] >= 48, "nothing is lost"


def test_the_shape_is_in_the_container_too(save, tmp_path):
    """Editors read it from there (ISO/IEC 14496-12, 12.1.4)."""
    path, _ = save(wide(tmp_path / "clip.mkv"), "mp4 (h264)")
    data = path.read_bytes()
    assert data[data.index(b"pasp") + 4 :][:8] == bytes([0, 0, 0, 16, 0, 0, 0, 11])


@pytest.mark.parametrize("format", BOXED)
def test_what_is_kept_if_unfinished_is_whole_in_the_end(save, tmp_path, format):
    """The shape of pixels, which a decoder may not know, and a time code, of which the muxer makes a track."""
    clip = wide(tmp_path / "clip.mkv", tags={"timecode": "01:02:03:04", "title": "a title"})
    path, _ = save(clip, format, keep_unfinished=True)
    assert shape(path) == pytest.approx(24 / 11) and FileSource(path).frames == 4
    with av.open(str(path)) as container:
        assert container.metadata["title"] == "a title"


def test_a_part_keeps_its_shape_and_its_frames(save, tmp_path):
    path, _ = save(wide(tmp_path / "clip.mp4"), "mp4 (h264)", start=0.25, duration=0.25)
    assert shape(path) == pytest.approx(24 / 11) and FileSource(path).frames == 2


@pytest.mark.parametrize("aspect", [Fraction(1000), Fraction(1, 1000)])
def test_a_shape_that_cannot_be_is_not_believed(save, tmp_path, aspect):
    path, _ = save(wide(tmp_path / "clip.mkv", aspect), "gif")
    assert shape(path) == 1.5


# -- colours ----------------------------------------------------------------------------------------

GREY = (0.5, 0.5, 0.5)
PQ = {"primaries": 9, "transfer": 16, "matrix": 9}
HLG = {"primaries": 9, "transfer": 18, "matrix": 9}
DEEP = ["mp4 (h264)", "mp4 (h265)", "mp4 (av1)", "mkv (ffv1)", "mov (prores)"]


@pytest.mark.parametrize("hdr", [PQ, HLG], ids=["pq", "hlg"])
@pytest.mark.parametrize("format", DEEP)
def test_hdr_stays_hdr_where_there_are_ten_bits(save, tmp_path, format, hdr):
    path, told = save(write_colours(tmp_path / "clip.mkv", (0.6, 0.4, 0.3), **hdr), format)
    if format == "mov (prores)" and av.__version__.startswith("16"):
        return  # whose frames cannot carry them
    assert tags(path) == (9, hdr["transfer"], *((0, 2) if "ffv1" in format else (9, 1))) and not told
    assert np.abs(first_colour(path) - (0.6, 0.4, 0.3)).max() < 0.02


@pytest.mark.parametrize(
    "format, depth, hdr", [("mp4 (h264)", "8", PQ), ("webm (vp9)", "auto", HLG), ("gif", "auto", PQ)]
)
def test_hdr_becomes_sdr_where_it_cannot_be_told(save, tmp_path, format, depth, hdr):
    """White on paper is 203 cd/m2 (ITU-R BT.2408): about as bright as in SDR, not the grey of its code."""
    paper = 0.58 if hdr is PQ else 0.75
    path, told = save(write_colours(tmp_path / "clip.mkv", (paper,) * 3, **hdr), format, bit_depth=depth)
    assert "BT.2020 " + ("PQ" if hdr is PQ else "HLG") + " is converted to BT.709" in told
    if path.suffix in (".webp", ".gif", ".png"):
        red, green, blue = np.asarray(Image.open(path).convert("RGB"))[32, 32] / 255
    else:
        assert tags(path) == (1, 1, 1, 1)
        red, green, blue = first_colour(path)
    assert max(red, green, blue) - min(red, green, blue) < 0.02, "grey stays grey"
    assert 0.55 < green < 0.85


def test_a_saturated_colour_of_hdr_becomes_the_most_that_sdr_has(save, tmp_path):
    """Pale is what it was when BT.2020's red was taken for BT.709's."""
    path, _ = save(write_colours(tmp_path / "clip.mkv", (0.58, 0.3, 0.3), **PQ), "png sequence")
    red, green, blue = np.asarray(Image.open(path).convert("RGB"))[32, 32] / 255
    assert red > 0.5 and green < 0.3 and blue < 0.3


def test_bt2020_is_converted_where_another_colour_is_chosen(save, tmp_path):
    clip = write_colours(tmp_path / "clip.mkv", GREY, primaries=9, transfer=14, matrix=9)
    path, told = save(clip, "mp4 (h265)", color="BT.601")
    assert tags(path) == (1, 1, 6, 1) and "other colours were asked for" in told


def test_the_screen_hdr_was_made_on_goes_along(save, tmp_path):
    own = {"x265-params": f"log-level=-1:master-display={HDR10}:max-cll=1000,400"}
    clip = write_colours(tmp_path / "clip.mp4", GREY, "yuv420p10le", "libx265", **PQ, **own)
    stated = FileSource(clip).stated
    assert stated.content_light == (1000, 400)
    assert [float(each) for each in stated.mastering] == pytest.approx(
        [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 0.005, 1000], abs=1e-6
    )
    for format in ("mp4 (h264)", "mp4 (h265)", "mkv (h265)", "mp4 (av1)"):
        path, told = save(clip, format)
        again = FileSource(path).stated
        assert [float(each) for each in again.mastering] == pytest.approx(
            [float(each) for each in stated.mastering], abs=1e-4
        )
        assert again.content_light == stated.content_light and not told
    for format in ("mov (prores)", "mkv (ffv1)"):
        _, told = save(clip, format)
        assert "the light of the screen that it was made on" in told


def test_the_preview_of_hdr_is_sdr(save, tmp_path, monkeypatch):
    """Browsers show it on any screen."""
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path / "temp"))
    save(write_colours(tmp_path / "clip.mkv", (0.58,) * 3, **PQ), "mkv (h265)", preview=True)
    [preview] = (tmp_path / "temp").iterdir()
    assert tags(preview) == (1, 1, 1, 1) and 0.55 < first_colour(preview)[1] < 0.85


SDR = {
    "bt.601 ntsc": (6, 6, 6),
    "bt.601 pal": (5, 6, 5),
    "gamma 2.8": (5, 5, 5),
    "smpte 240m": (7, 7, 7),
    "bt.2020": (9, 14, 9),
    "display p3": (12, 13, 1),
    "srgb": (1, 13, 1),
    "gamma 2.2": (1, 4, 1),
}


@pytest.mark.parametrize("name", SDR)
@pytest.mark.parametrize("format", ["mp4 (h264)", "webm (vp9)", "mkv (ffv1)"])
def test_primaries_and_transfer_are_told_as_they_were(save, tmp_path, name, format):
    primaries, transfer, matrix = SDR[name]
    rgb = (0.7, 0.4, 0.3)
    clip = write_colours(tmp_path / "clip.mkv", rgb, primaries=primaries, transfer=transfer, matrix=matrix)
    path, told = save(clip, format, bit_depth="8", chroma="4:4:4")
    assert tags(path) == (primaries, transfer, 9 if primaries == 9 else 1, 1)
    assert "converted" not in told and np.abs(first_colour(path) - rgb).max() < 0.02


def linear_bt709(rgb: np.ndarray) -> np.ndarray:
    return np.where(rgb < 0.081, rgb / 4.5, ((rgb + 0.099) / 1.099) ** (1 / 0.45))


def test_bt2020_becomes_bt709_in_a_gif(save, tmp_path):
    """By the matrix of ITU-R BT.2087, attachment 2, of light: this colour is one that BT.709 has."""
    rgb = np.array((0.55, 0.5, 0.45))
    to_bt709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
    light = to_bt709 @ linear_bt709(rgb)
    expected = np.where(light < 0.018, light * 4.5, 1.099 * light**0.45 - 0.099)
    path, told = save(write_colours(tmp_path / "clip.mkv", rgb, primaries=9, transfer=14, matrix=9), "gif")
    assert "BT.2020 is converted to BT.709" in told
    assert np.abs(np.asarray(Image.open(path).convert("RGB"))[32, 32] / 255 - expected).max() < 0.015


def test_a_pyav_that_cannot_convert_colours_says_so(save, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(file, "converts_colours", lambda: False)
    path, _ = save(write_colours(tmp_path / "clip.mkv", GREY, **PQ), "gif")
    assert any("cannot convert" in line for line in caplog.messages)
    assert np.abs(np.asarray(Image.open(path).convert("RGB"))[32, 32] / 255 - 0.5).max() < 0.02


@pytest.mark.parametrize("primaries, transfer, kept", [(22, 9, (1, 1)), (9, 10, (9, 1))])
def test_colours_that_no_file_here_can_state_are_told(save, tmp_path, primaries, transfer, kept):
    clip = write_colours(tmp_path / "clip.mkv", GREY, primaries=primaries, transfer=transfer)
    path, told = save(clip, "mp4 (h264)")
    assert tags(path)[:2] == kept and f"not kept: that its colours are {primaries}/{transfer}" in told


def screen(*numbers: float) -> bytes:
    """FFmpeg's AVMasteringDisplayMetadata: places of red, green, blue and white, the least and the most light."""
    return struct.pack("=22i", *(part for each in numbers for part in (round(each * 10_000), 10_000)), 1, 1)


PLACES = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329)


@pytest.mark.parametrize(
    "mastering, light, kept",
    [
        (screen(*PLACES, 0.005, 1000), (1000, 400), (True, True)),
        (screen(*PLACES[:7], 1.5, 0.005, 1000), (1000, 400), (False, True)),
        (screen(-0.1, *PLACES[1:], 0.005, 1000), (1000, 400), (False, True)),
        (screen(*PLACES, 1000, 0.005), (1000, 400), (False, True)),
        (screen(*PLACES, 0.005, 20_000), (1000, 400), (False, True)),
        (screen(*PLACES, 0.005, 1000), (70_000, 400), (True, False)),
    ],
)
def test_light_that_cannot_be_is_not_believed(tmp_path, mastering, light, kept):
    clip = write_colours(tmp_path / "clip.mkv", GREY, **PQ)
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        said = {"MASTERING_DISPLAY_METADATA": mastering, "CONTENT_LIGHT_LEVEL": struct.pack("=2I", *light)}
        side_data = [SideData(types.SimpleNamespace(name=name), data) for name, data in said.items()]
        names = ("rotation", "interlaced_frame", "format")
        frame = types.SimpleNamespace(side_data=side_data, **{name: getattr(frame, name) for name in names})
        stated = stated_in(container, stream, frame, None)
    assert (bool(stated.mastering), bool(stated.content_light)) == kept
    assert any("cannot be right" in words for words in stated.left_out) == (not all(kept))


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p10le", "yuv444p16le", "yuv422p12le"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [1, 2, 4, 5, 6, 7, 9])
def test_ranges_and_matrices_are_read_as_they_are_told(tmp_path, pixels, full, matrix):
    """Where none is told, as FFmpeg and ComfyUI read it: BT.601, which is also what ComfyUI's own saver writes."""
    for rgb in ((0, 0, 0), (1, 1, 1), GREY, (0.7, 0.4, 0.3)):
        path = write_colours(tmp_path / "clip.mkv", rgb, pixels, matrix=matrix, full=full)
        bits = av.VideoFormat(pixels).components[0].bits
        assert np.abs(first_colour(path) - rgb).max() < 1.7 / 2 ** min(bits, 12)
        path.unlink()


@pytest.mark.parametrize("pixels, codec", [("yuvj420p", "mjpeg"), ("yuvj444p", "mjpeg"), ("yuvj420p", "libx264")])
def test_middle_grey_of_full_range_is_exact(tmp_path, pixels, codec):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, pixels
        stream.codec_context.color_range = 2
        stream.options = {"qp": "0"} if codec == "libx264" else {"q:v": "1", "qmin": "1"}
        frame = av.VideoFrame(48, 32, pixels)
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert np.abs(first_colour(path) * 255 - 128).max() < 0.02


def test_colour_stays_where_it_is(save, tmp_path):
    """A slope in chroma alone, of 1 code a column, saved five times: with chroma taken half a pixel too far to the
    right each time, it would be two codes off."""
    clip = tmp_path / "clip.mkv"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        frame = av.VideoFrame(128, 64, "yuv420p")
        for plane, code in zip(frame.planes, (128, 64 + 2 * np.arange(64), 128)):
            row = np.resize(code, plane.line_size).astype(np.uint8)
            plane.update(np.tile(row, (plane.height, 1)).tobytes())
        frame.colorspace, frame.color_range, frame.pts, frame.time_base = 1, 1, 0, Fraction(1, 8)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path = clip
    for _ in range(5):
        path, _ = save(path, "mkv (ffv1)", chroma="4:2:0")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    chroma = np.frombuffer(frame.planes[1], np.uint8).reshape(32, -1)[16, 8:56].astype(int)
    assert np.abs(chroma - (64 + 2 * np.arange(8, 56))).max() <= 1


# -- kinds of pixels --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels, steps",
    [
        ("gray", 255),
        ("gray10le", 1023),
        ("gray16le", 65535),
        ("monow", 1),
        ("monob", 1),
        ("ya8", 255),
        ("rgb565le", 31),
        ("rgb555le", 31),
        ("bgr8", 3),
        ("rgb8", 3),
        ("bgr4_byte", 1),
        ("rgb48le", 65535),
        ("gbrp", 255),
        ("gbrp10le", 1023),
        ("gbrap16le", 65535),
        ("bgr24", 255),
        ("argb", 255),
        ("nv12", 219),
        ("yuyv422", 219),
        ("yuv410p", 219),
        ("yuv411p", 219),
        ("yuv440p", 219),
        ("yuva444p16le", 219),
    ],
)
def test_black_grey_and_white_of_every_kind(tmp_path, pixels, steps):
    picture = np.zeros((32, 48, 3), np.uint16)
    picture[:, 16:32], picture[:, 32:] = 32768, 65535
    path = tmp_path / "clip.nut"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, pixels
        frame = av.VideoFrame.from_ndarray(picture, "rgb48le").reformat(format=pixels)
        frame.pts, frame.time_base = 0, Fraction(1, 8)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = FileSource(path)
    chunks = []
    source.decode(chunks.append)
    black, grey, white = (chunks[0][:3, 0, 16, at] for at in (8, 24, 40))
    assert float(black.max()) < 0.01 and float(white.min()) > 0.96 and float(white.max()) < 1.01
    assert 0.5 - 0.6 / steps - 0.01 < float(grey.mean()) < 0.5 + 0.6 / steps + 0.01


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libvpx"])
def test_transparency_of_webm(save, tmp_path, codec):
    """FFmpeg's own decoders leave it out."""

    def prepare(video, tracks):
        video.options = {"auto-alt-ref": "0", "crf": "4", "b": "1M"}

    clip = write_file(tmp_path / "clip.webm", 4, 8, codec, "yuva420p", alpha=51, prepare=prepare)
    path, told = save(clip, "webm (vp9)")
    for each in (clip, path):
        source, chunks = FileSource(each), []
        source.decode(chunks.append)
        assert source.alpha and numbers_of(chunks) == list(range(4))
        assert all(abs(float(chunk[3].mean()) - 0.2) < 0.02 for chunk in chunks)
    assert not told and "not kept: transparency" in save(clip, "mp4 (h264)")[1]


def test_interlaced_pictures_become_whole_ones(save, tmp_path):
    """A bar that moves is a comb in a picture of two fields."""
    clip = tmp_path / "clip.mkv"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.options = {"x264-params": "tff=1", "flags": "+ildct+ilme", "crf": "4"}
        for number in range(10):
            picture = np.zeros((64, 96, 3), np.uint8)
            for field in (0, 1):
                at = 8 * number + 4 * field
                picture[field::2, at : at + 16] = 255
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path, told = save(clip, "mp4 (h264)")
    assert "interlaced" in told
    for each in (clip, path):
        source, chunks = FileSource(each), []
        source.decode(chunks.append)
        assert source.frames == len(chunks) == 10
        luma = chunks[5].mean(0)[0]
        assert float((luma[1:] - luma[:-1]).abs()[4:-4].max()) < 0.35, "rows differ as little as the picture does"


# -- what else is in a file -------------------------------------------------------------------------


def rich(path: Path) -> Path:
    """A file with two tracks of sound, chapters and texts."""
    plain = write_file(
        path.with_name("plain.mp4"), 8, 8, "libx264", "yuv420p", sounds=(ramp(8000), ramp(8000, 2)), sound_codec="flac"
    )
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        target.metadata.update({"title": "Größe 大", "artist": "somebody", "workflow": "{}", "prompt": "{}"})
        streams = {each.index: target.add_stream_from_template(each, opaque=True) for each in source.streams}
        last = streams[max(streams)]
        last.metadata.update({"language": "jpn", "title": "Kommentar"})
        if hasattr(target, "set_chapters"):
            target.set_chapters(
                [{"id": 1, "start": 0, "end": 500, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}}]
            )
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return path


@pytest.mark.parametrize("format", ["mp4 (h264)", "mkv (h264)", "webm (vp9)", "mov (prores)"])
@pytest.mark.parametrize("keep_unfinished", [False, True])
def test_texts_go_along_and_what_does_not_is_told(save, tmp_path, format, keep_unfinished):
    path, told = save(rich(tmp_path / "clip.mkv"), format, keep_unfinished=keep_unfinished)
    assert "not kept: chapters, 1 more sound track" in told
    with av.open(str(path)) as container:
        texts = {key.lower(): text for key, text in container.metadata.items()}
        assert texts["title"] == "Größe 大" and texts["artist"] == "somebody"
        assert texts["workflow"] == '{"n": 1}', "ours, not the one that the file was made by"
        assert container.streams.audio[0].metadata["language"] == "jpn"
        assert len(container.streams.audio) == 1


@pytest.mark.parametrize("format", ["mp4 (h264)", "gif"])
def test_other_sound_has_not_the_texts_of_the_first(save, tmp_path, format):
    audio = {"waveform": torch.zeros(1, 1, 8000), "sample_rate": 8000}
    path, told = save(rich(tmp_path / "clip.mkv"), format, audio=audio)
    assert not told.endswith(", sound")
    if format != "gif":
        with av.open(str(path)) as container:
            assert container.streams.audio[0].metadata.get("language", "und") == "und"


@pytest.mark.parametrize("format", OTHERS)
def test_pictures_have_neither_sound_nor_texts(save, tmp_path, format):
    _, told = save(rich(tmp_path / "clip.mkv"), format)
    assert "not kept: chapters, 1 more sound track, titles and other tags, sound" in told


def test_nothing_is_said_of_a_plain_file(save, tmp_path):
    path = write_file(tmp_path / "clip.mp4", 8, 8, "libx264", "yuv420p", sounds=(ramp(8000),), sound_codec="aac")
    for format in VIDEOS:
        assert save(path, format)[1] == ""


def remuxed(path: Path, *sources: Path, prepare=lambda streams: None) -> Path:
    """All tracks of these files in one, in this order."""
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(av.open(str(path), "w"))
        files = [stack.enter_context(av.open(str(each))) for each in sources]
        tracks = [(file, each) for file in files for each in file.streams]
        streams = [target.add_stream_from_template(each, opaque=True) for _, each in tracks]
        prepare(streams)
        for file in files:
            of = {each.index: stream for (its, each), stream in zip(tracks, streams) if its is file}
            for packet in file.demux():
                if packet.dts is not None:
                    packet.stream = of[packet.stream.index]
                    target.mux(packet)
    return path


def test_subtitles_are_told(save, tmp_path):
    texts = tmp_path / "texts.srt"
    texts.write_text("1\n00:00:00,000 --> 00:00:00,500\nhello\n")
    path = remuxed(tmp_path / "clip.mkv", write_file(tmp_path / "plain.mkv", 8), texts)
    assert "not kept: 1 subtitle track" in save(path, "mp4 (h264)")[1]


def cover_first(path: Path) -> None:
    """Put the cover of an MP4 before its tracks, where some programs write it."""
    data = path.read_bytes()
    at = data.index(b"moov") - 4
    assert at + struct.unpack(">I", data[at : at + 4])[0] == len(data), "nothing comes after it that would move"
    boxes, here = [], at + 8
    while here < len(data):
        length = struct.unpack(">I", data[here : here + 4])[0]
        boxes.append(data[here : here + length])
        here += length
    boxes.sort(key=lambda box: [b"mvhd", b"udta"].index(box[4:8]) if box[4:8] in (b"mvhd", b"udta") else 2)
    path.write_bytes(data[: at + 8] + b"".join(boxes))


def test_the_cover_of_an_album_is_not_the_video(save, tmp_path):
    def prepare(streams):
        streams[1].disposition = av.stream.Disposition.attached_pic

    plain = write_file(tmp_path / "plain.mp4", 8, 8, "libx264", "yuv420p")
    cover = write_file(tmp_path / "cover.mkv", 1, 8, "mjpeg", "yuvj420p", size=(64, 64))
    path = remuxed(tmp_path / "clip.mp4", plain, cover, prepare=prepare)
    cover_first(path)
    with av.open(str(path)) as container:
        covers = [bool(each.disposition & av.stream.Disposition.attached_pic) for each in container.streams.video]
    assert covers == [True, False]
    assert numbers_of(chunks_of(FileSource(path))) == list(range(8))
    assert "not kept: the cover picture" in save(path, "mp4 (h264)")[1]
    assert FileSource(cover).frames == 1, "a picture alone is a video of one"


@pytest.mark.parametrize("asked, frames", [(7, 8), (3, 3)], ids=["all", "some"])
def test_after_a_recount_all_are_saved_that_come_unless_less_were_asked_for(tmp_path, asked, frames):
    """Of a damaged file more may come than it has packets."""
    source, kept = FileSource(write_file(tmp_path / "clip.mkv", 8)), TensorSink()
    source.frames = 7
    decode, count = source.decode, source.count_by_decoding
    source.decode = lambda submit: decode(submit) if counted else decode(lambda chunk: submit(chunk[:, :0]))
    counted = []
    source.count_by_decoding = lambda: (counted.append(1), count())
    video_source.run(source, [kept], asked)
    assert counted and kept.frames_thwc.shape[0] == frames


@pytest.mark.parametrize("on", ["keep_frames", "ping_pong"])
def test_what_no_memory_can_hold_is_refused_before_it_is_decoded(save, tmp_path, on, monkeypatch):
    clip = write_file(tmp_path / "clip.mkv", 8, times=[*range(7), 10_000])
    monkeypatch.setattr(save_video.psutil, "virtual_memory", lambda: types.SimpleNamespace(total=10**6))
    monkeypatch.setattr(save_video.psutil, "swap_memory", lambda: types.SimpleNamespace(total=0))
    monkeypatch.setattr(save_video, "run", None)
    with pytest.raises(ValueError, match=f"{on} would hold .* frames of 48x32 in memory"):
        save(clip, "mp4 (h264)", **{on: True})
