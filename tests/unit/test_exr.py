"""EXR sequences: linear light in half floats, as people who grade expect it, read back by FFmpeg."""

import json

import av
import numpy as np
import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.pixels import PixelFormat, convert, displayable
from async_frame_pipeline.pipeline.sinks.encoders.base import SPEEDS
from async_frame_pipeline.pipeline.sinks.latest_frame import LatestFrame
from async_frame_pipeline.pipeline.sinks.preview import PreviewSink
from async_frame_pipeline.pipeline.sinks.spectator import Spectator
from async_frame_pipeline.pipeline.sinks.unfinished import Numbered
from PIL import Image

from .test_sinks import CPU, FORMATS, Fraction, VideoOptions, VideoSpec, choice_of, file_sink, target

HALF = 2**-11  # of a value: what rounding to half floats costs at most


def linear(srgb: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1 in float64, mirrored below 0."""
    size = np.abs(srgb.astype(np.float64))
    return np.sign(srgb) * np.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055) ** 2.4)


def save(folder, frames_cthw: torch.Tensor, clamped=False, spectators=(), metadata=None, **more):
    channels, frames, height, width = frames_cthw.shape
    choice = choice_of("exr sequence", alpha=channels == 4, **more)
    options = VideoOptions(Fraction(24), choice, metadata=metadata or {})
    sink = file_sink(target(folder, FORMATS["exr sequence"]), options)
    spec = VideoSpec(frames, height, width, CPU, zero_centred=False, clamped=clamped, alpha=channels == 4)
    watching = [Spectator(make(sink, options)) for make in spectators]
    engine.run(lambda submit: submit(frames_cthw), spec, [sink, *watching])
    return sink


def read(path) -> np.ndarray:
    """(C, H, W) float32: R, G, B and perhaps alpha."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    dtype = np.float16 if "f16" in frame.format.name else np.float32  # older FFmpegs read halves as floats
    planes = [np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]
    green, blue, red, *alpha = planes
    return np.stack([red, green, blue, *alpha]).astype(np.float32)


def attributes(data: bytes) -> dict[str, bytes]:
    """Of the header of an EXR, by hand."""
    found, position = {}, 8
    while data[position]:
        name, kind, rest = data[position:].split(b"\0", 2)
        size = int.from_bytes(rest[:4], "little")
        found[name.decode()] = rest[4 : 4 + size]
        position += len(name) + len(kind) + 6 + size
    return found


def wide(frames=3, height=19, width=33, channels=3) -> torch.Tensor:
    """From -0.5 to 3: more than a display shows."""
    return torch.rand(channels, frames, height, width, generator=torch.Generator().manual_seed(1)) * 3.5 - 0.5


@pytest.mark.parametrize("speed", SPEEDS)
def test_light_is_linear_and_what_lies_outside_is_kept(tmp_path, speed):
    frames = wide()
    sink = save(tmp_path, frames, speed=speed)
    paths = sorted(sink.path.iterdir())
    assert [path.name for path in paths] == ["00001.exr", "00002.exr", "00003.exr"]
    for i, path in enumerate(paths):
        wanted = linear(frames[:, i].numpy())
        assert (np.abs(read(path) - wanted) <= np.abs(wanted) * (HALF + 1e-5) + 1e-7).all()
    said = attributes(paths[0].read_bytes())
    # Name, then 1: half floats.
    assert said["channels"].startswith(b"B\0" + (1).to_bytes(4, "little"))
    assert said["pixelAspectRatio"] == np.float32(1).tobytes()
    assert np.frombuffer(said["framesPerSecond"], np.int32).tolist() == [24, 1]


def test_what_the_stock_node_clamps_is_clamped(tmp_path):
    frames = wide(frames=1)
    assert np.abs(read(save(tmp_path, frames, clamped=True).path / "00001.exr")).max() <= 1
    assert read(save(tmp_path, frames).path / "00001.exr").max() > 5


def test_colours_are_premultiplied(tmp_path):
    frames = torch.rand(4, 2, 16, 20, generator=torch.Generator().manual_seed(2))
    got = read(save(tmp_path, frames).path / "00002.exr")
    wanted = linear(frames[:3, 1].numpy()) * frames[3, 1].numpy()
    assert np.abs(got[:3] - wanted).max() <= HALF and np.abs(got[3] - frames[3, 1].numpy()).max() <= HALF


def test_nothing_but_numbers_is_written(tmp_path):
    frames = torch.tensor([float("nan"), float("inf"), float("-inf"), 1e9]).view(1, 1, 2, 2).expand(3, 1, 2, 2)
    got = read(save(tmp_path, frames).path / "00001.exr")[0].reshape(-1)
    assert got.tolist() == [0.0, 65504.0, -65504.0, 65504.0]


def test_a_picture_in_the_folder_holds_the_workflow(tmp_path):
    metadata = {"workflow": {"nodes": [1]}}
    sink = save(tmp_path, torch.full((3, 2, 16, 20), 0.5), metadata=metadata)
    assert [path.name for path in sorted(sink.path.iterdir())] == ["00001.exr", "00002.exr", "workflow.png"]
    with Image.open(sink.path / "workflow.png") as picture:
        assert json.loads(picture.text["workflow"]) == metadata["workflow"]
        assert set(picture.getpixel((3, 3))) <= {127, 128}, "as a display shows it, not its light"


def test_what_is_watched_is_as_bright_as_ever(tmp_path):
    watching = []

    def preview(sink, options):
        watching.append(PreviewSink(Numbered(tmp_path, "small", 1, "mp4"), options, sink.pixel_format))
        return watching[-1]

    def latest(sink, options):
        watching.append(LatestFrame(sink.pixel_format))
        return watching[-1]

    save(tmp_path, torch.full((3, 3, 64, 96), 0.5), spectators=[preview, latest])
    with av.open(str(watching[0].path)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(picture.astype(int) - 128).max() <= 2
    (tmp_path / "latest.jpg").write_bytes(watching[1].take_jpeg())
    with Image.open(tmp_path / "latest.jpg") as picture:
        assert abs(picture.getpixel((9, 9))[0] - 128) <= 2


def test_every_code_of_8_bits_comes_back():
    levels = (torch.arange(256) / 255).view(1, 1, 16, 16).expand(3, 1, 16, 16)
    pixel_format = PixelFormat("linear", 16)
    packed = torch.empty((1, *pixel_format.frame_shape(16, 16)), dtype=pixel_format.dtype)
    convert(levels, False, pixel_format, packed)
    shown, shown_format = displayable(packed, pixel_format)
    assert shown_format.planes(shown, 16, 16)[0].flatten().tolist() == list(range(256))
