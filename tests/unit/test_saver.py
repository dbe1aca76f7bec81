"""Save Video (Streaming) without a server: what it takes, where it saves, and what it gives on."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from . import in_comfyui, saver
from .allocated import CAN_COUNT, allocated_bytes

from async_frame_pipeline.nodes.comfyui import vaes
from async_frame_pipeline.nodes.decode_to_video import AsyncVAEDecodeToVideo
from async_frame_pipeline.nodes.latent_video import LatentVideo
from async_frame_pipeline.nodes.save_video import SaveVideoStreaming
from async_frame_pipeline.nodes.saver_inputs import Refused, SaverInputs
from async_frame_pipeline.pipeline.decoders import exact
from async_frame_pipeline.pipeline.sinks.formats import FORMATS
from async_frame_pipeline.pipeline.sinks.ping_pong import PingPong
from comfy_api.latest import InputImpl, Types
from comfy_execution.graph_utils import ExecutionBlocker


@pytest.fixture(autouse=True)
def folders(tmp_path):
    with saver.folders(tmp_path):
        yield tmp_path


def images(frames: int = 6, channels: int = 3) -> torch.Tensor:
    return torch.rand(frames, 32, 48, channels, generator=torch.Generator().manual_seed(1))


def tone(seconds: float, hertz: float = 440.0, rate: int = 44100) -> dict:
    time = torch.arange(round(seconds * rate)) / rate
    return {"waveform": (0.3 * torch.sin(2 * torch.pi * hertz * time))[None, None], "sample_rate": rate}


def video(frames: int = 6, audio: dict | None = None):
    return InputImpl.VideoFromComponents(
        Types.VideoComponents(images=images(frames), audio=audio, frame_rate=Fraction(8))
    )


def hertz(path: str) -> float:
    """Of the loudest tone in a file."""
    with av.open(path) as container:
        rate = container.streams.audio[0].rate
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


# ---------------------------------------------------------------------------- images in place of a video


def test_images_with_a_frame_rate_and_sound_become_a_video(folders):
    output = saver.save(images=images(), fps=8.0, audio=tone(0.75))
    saved, path = output[0], output[2]
    assert path == str(folders / "output" / "saved_00001_.mp4")
    with av.open(path) as container:
        assert container.streams.video[0].average_rate == 8
        assert sum(1 for _ in container.decode(video=0)) == 6
    assert abs(hertz(path) - 440) < 3
    assert saved.get_frame_count() == 6


def test_images_without_a_frame_rate_have_the_one_that_the_node_shows():
    with av.open(saver.save(images=images())[2]) as container:
        assert container.streams.video[0].average_rate == 24


def test_images_are_what_create_video_would_have_made_of_them(folders):
    """Lossless, so that every code is seen; with transparency."""
    how = {"format": "mkv (ffv1)", "bit_depth": "16"}
    made = InputImpl.VideoFromComponents(
        Types.VideoComponents(images=images(channels=4), audio=None, frame_rate=Fraction(8))
    )
    paths = saver.save(images=images(channels=4), fps=8, **how)[2], saver.save(video=made, **how)[2]
    assert Path(paths[0]).read_bytes()[-2000:] == Path(paths[1]).read_bytes()[-2000:]
    with av.open(paths[0]) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "gbrap16le"


def test_sound_of_its_own_goes_before_that_of_the_video():
    assert abs(hertz(saver.save(video=video(), audio=tone(0.75))[2]) - 440) < 3
    assert abs(hertz(saver.save(video=video(audio=tone(0.75, 1000.0)))[2]) - 1000) < 3
    assert abs(hertz(saver.save(video=video(audio=tone(0.75, 1000.0)), audio=tone(0.75))[2]) - 440) < 3


def test_a_video_or_images_and_not_both():
    with pytest.raises(ValueError, match="connect a video, or images"):
        saver.save()
    with pytest.raises(ValueError, match="connect a video, or images"):
        saver.save(video=None, images=None)  # what a switch gives of an input that is not there
    with pytest.raises(ValueError, match="a video and images are connected"):
        saver.save(video=video(), images=images())
    assert saver.save(video=None, images=images())[2] and saver.save(video=video(), images=None)[2]


@pytest.mark.parametrize("fps", [0, float("nan"), 1e9])
def test_images_need_a_frame_rate_that_can_be(fps, folders):
    with pytest.raises(ValueError, match="fps must be"):
        saver.save(images=images(), fps=fps)
    assert list((folders / "output").iterdir()) == []


# ---------------------------------------------------------------------------- where it goes


def test_with_save_output_off_it_goes_into_the_temp_folder(folders):
    output = saver.save(images=images(), filename_prefix="shots/it", save_output=False)
    assert output[2] == str(folders / "temp" / "shots" / "it_00001_.mp4") and Path(output[2]).is_file()
    [shown] = output.ui["images"]
    assert (shown["filename"], shown["subfolder"], shown["type"]) == ("it_00001_.mp4", "shots", "temp")
    assert list((folders / "output").iterdir()) == []
    assert output[0].get_frame_count() == 6


def test_a_prefix_leads_out_of_the_temp_folder_neither(folders):
    (folders / "temp" / "link").symlink_to(folders / "input")
    with pytest.raises(ValueError, match="does not name a place inside"):
        saver.save(images=images(), filename_prefix="link/x", save_output=False)
    assert list((folders / "input").iterdir()) == []


def test_the_path_of_pictures_is_their_folder(folders):
    output = saver.save(images=images(), fps=8, audio=tone(0.5), format="png sequence")
    assert output[2] == str(folders / "output" / "saved_00001_")
    assert len(list(Path(output[2]).iterdir())) == 6
    passed_on = output[0].get_components()
    assert torch.equal(passed_on.images, images()) and passed_on.frame_rate == 8 and passed_on.audio is not None


@pytest.mark.parametrize("name", ["n" * 244, "é" * 122, "n" * 230], ids=["long", "two bytes each", "just fits"])
def test_a_file_of_any_name_has_a_preview(name, folders):
    """The longest names that a file can have here."""
    output = saver.save(images=images(), filename_prefix=name, format="mov (prores)")
    assert Path(output[2]).name == f"{name}_00001_.mov"
    [report] = output.ui["async_frame_pipeline"]
    shown = json.loads(report)["preview"]
    assert shown is not None and (folders / "temp" / shown["filename"]).is_file()
    assert shown["filename"].startswith(name[:40])


@pytest.mark.skipif(not CAN_COUNT, reason="the C library does not count")
def test_the_preview_of_a_ping_pong_holds_small_frames_alone(monkeypatch):
    """Counted when the last frame is written, and none has come back."""
    frames, size = 12, (1280, 1280)
    held = []

    def count(self):
        held.append(allocated_bytes() - before)
        raise RuntimeError("counted")

    monkeypatch.setattr(PingPong, "finish", count)
    for preview in (False, True):
        before = allocated_bytes()
        with pytest.raises(RuntimeError, match="counted"):
            saver.save(
                images=torch.zeros(1, 1, 1, 1).expand(frames, *size, 3),
                format="mov (prores)",
                ping_pong=True,
                preview=preview,
            )
    one_copy = frames * size[0] * size[1] * 2 * 2  # 10 bits at 4:2:2
    assert held[0] > one_copy
    assert held[1] - held[0] < one_copy, [size // 1000 for size in held]


# ---------------------------------------------------------------------------- the frames


def test_frames_that_are_used_are_given_also_where_it_was_not_asked_for():
    """When the prompt was queued it was not known; after the work it is too late to refuse."""
    prompt = {"1": {"inputs": {}}, "2": {"inputs": {"images": ["1", 1]}}}
    assert torch.equal(saver.save(prompt, images=images(), keep_frames=False)[1], images())
    with_the_path = {"1": {"inputs": {}}, "2": {"inputs": {"text": ["1", 2]}}}
    assert isinstance(saver.save(with_the_path, images=images())[1], ExecutionBlocker)


def latent_video(kind: str = "wan 2.1", decoder: str = "exact", frames: int = 3, **more):
    """A VIDEO that is still a latent, and its frames as VAE Decode gives them."""
    vae = in_comfyui.vae(kind)
    shape = (1, vae.latent_channels, frames, 4, 6) if kind != "image" else (frames, vae.latent_channels, 4, 6)
    samples = {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(2))}
    with torch.inference_mode():
        return LatentVideo(vae, samples, Fraction(8), decoder=decoder, **more), vaes.stock_decode(vae, samples)


def ends_of(output) -> tuple[torch.Tensor, torch.Tensor]:
    for frame in output[3], output[4]:
        assert frame.shape[0] == 1 and frame.dtype == torch.float32 and frame.device.type == "cpu"
    return output[4], output[3]


def assert_ends(output, frames: torch.Tensor) -> None:
    first, last = ends_of(output)
    assert torch.equal(first, frames[:1]) and torch.equal(last, frames[-1:])


@pytest.mark.parametrize("kind", ["wan 2.1", "wan 2.2", "taehv", "image"])
def test_the_ends_of_a_decode_are_those_of_vae_decode(kind):
    """`image` is decoded late."""
    video, frames = latent_video(kind)
    assert_ends(saver.save(video=video), frames)
    assert_ends(saver.save(video=video, ping_pong=True), frames)
    assert_ends(saver.save(video=video, audio=tone(0.3), audio_length="shortest"), frames[:3])
    assert_ends(saver.save(video=video.as_trimmed(0.125, 0.125), format="png sequence"), frames[1:2])


@pytest.mark.parametrize("failures", [1, 2])
def test_the_ends_are_those_of_the_way_that_succeeded(failures, monkeypatch):
    """Out of memory in the middle of the first way, and of the second: the third decodes in tiles."""
    video, frames = latent_video(frames=4)
    decode, tries = exact.decode, []

    def fails(model, latents, submit, *how):
        if latents.shape[-2:] == (2, 2):  # of the noise that is decoded before a model's first use
            return decode(model, latents, submit, *how)
        tries.append(how)
        if len(tries) > failures:
            return decode(model, latents, submit, *how)
        submit(torch.full((3, 1, 32, 48), 0.7))
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(exact, "decode", fails)
    output = saver.save(video=video, keep_frames=True)
    assert len(tries) == 2
    assert_ends(output, output[1])
    if failures == 1:
        assert_ends(output, frames)


def test_the_ends_of_images_and_of_files():
    assert_ends(saver.save(images=images()), images())
    assert_ends(saver.save(images=images(channels=4)), images(channels=4)[..., :3])
    lossless = saver.save(images=images(), fps=8, format="mkv (ffv1)", bit_depth="16")
    again = saver.save(video=lossless[0], keep_frames=True)
    assert_ends(again, again[1])
    assert (again[1] - images()).abs().max() < 1 / 65535
    part = saver.save(video=lossless[0].as_trimmed(0.25, 0.25), keep_frames=True)
    assert_ends(part, again[1][2:4])


# ---------------------------------------------------------------------------- what the inputs may be


def test_what_is_not_given_is_as_the_node_shows_it():
    schema = SaveVideoStreaming.define_schema()
    shown = {each.id: getattr(each, "default", None) for each in schema.inputs}
    ours = {name: getattr(SaverInputs("x"), name) for name in SaverInputs.__dataclass_fields__}
    assert {name: shown[name] for name in ours if name != "filename_prefix"} == {
        name: value for name, value in ours.items() if name != "filename_prefix"
    }
    assert [each.id for each in schema.inputs if not each.optional] == ["filename_prefix"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_crf_is_used_or_refused(format):
    each = FORMATS[format]
    if each.crf_range is None:
        with pytest.raises(Refused, match="has no CRF") as refused:
            SaverInputs.of({"filename_prefix": "x", "format": format, "crf": 20})
        assert refused.value.input == "crf"
        return
    low, high = each.crf_range
    for crf in (low, high):
        assert SaverInputs.of({"filename_prefix": "x", "format": format, "crf": crf}).crf == crf
    with pytest.raises(Refused, match=f"CRFs from {low} to {high}|crf can be -1"):
        SaverInputs.of({"filename_prefix": "x", "format": format, "crf": high + 1})
    if each.lossless:
        with pytest.raises(Refused, match="lossless has no CRF"):
            SaverInputs.of({"filename_prefix": "x", "format": format, "quality": "lossless", "crf": 20})


def test_a_crf_stands_in_the_place_of_a_quality():
    sizes = [Path(saver.save(images=images(12), **how)[2]).stat().st_size for how in ({"crf": 40}, {}, {"crf": 5})]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("repeat", [2.0, Fraction(2), "2", np.int64(2), np.float32(2)], ids=repr)
def test_a_number_of_any_type_is_used_as_the_number_that_it_is(repeat):
    path = saver.save(images=images(), repeat=repeat, bit_depth=np.int64(10), dither=np.bool_(True), crf="20")[2]
    with av.open(path) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
        assert sum(1 for _ in container.decode(video=0)) == 12


@pytest.mark.parametrize("depth", [10.0, Fraction(10), "10", np.int64(10)], ids=repr)
def test_the_depth_of_a_decode_too(depth):
    vae, samples = in_comfyui.vae("wan 2.1"), {"samples": torch.randn(1, 16, 1, 4, 6)}
    with torch.inference_mode():
        video = AsyncVAEDecodeToVideo.execute(samples, vae, 8, bit_depth=depth, save_latents_first=np.bool_(False))[0]
    with av.open(saver.save(video=video)[2]) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
