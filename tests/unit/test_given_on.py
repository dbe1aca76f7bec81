"""The VIDEO that the saver gives on, of every format, into the stock nodes that take one: each can read it."""

import pytest
import torch

from . import saver

from async_frame_pipeline.pipeline.sinks.formats import FORMATS, available_formats
from comfy_api.latest import InputImpl
from comfy_extras import nodes_video

FRAMES, FPS = 8, 8


@pytest.fixture(autouse=True)
def folders(tmp_path):
    with saver.folders(tmp_path):
        yield tmp_path


def images(channels: int) -> torch.Tensor:
    """Each of a grey of its own, with a grain that keeps encoders busy; the transparency is another for each."""
    grey = torch.linspace(0.1, 0.9, FRAMES).view(-1, 1, 1, 1)
    grain = 0.2 * torch.rand(FRAMES, 48, 80, 3, generator=torch.Generator().manual_seed(1)) - 0.1
    return torch.cat([grey + grain, (1 - grey).expand(-1, 48, 80, channels - 3)], dim=-1)


def numbers(frames_thwc: torch.Tensor) -> list[int]:
    """Which frames these are."""
    return [round(grey) for grey in ((frames_thwc[..., :3].mean(dim=(1, 2, 3)) - 0.1) / 0.8 * (FRAMES - 1)).tolist()]


def sound() -> dict:
    return {"waveform": torch.sin(torch.arange(44100) / 20)[None, None] * 0.3, "sample_rate": 44100}


def components(video) -> list[int]:
    frames, _, fps, depth = nodes_video.GetVideoComponents.execute(video).args
    assert fps == pytest.approx(FPS, rel=0.05) and depth >= 8
    return numbers(frames)


def a_part(video) -> list[int]:
    return components(nodes_video.VideoSlice.execute(video, 0.25, 0.5, False)[0])


def saved_again(video) -> list[int]:
    return numbers(saver.save(video=video, filename_prefix="again", keep_frames=True)[1])


def saved_by_stock(folders):
    def saved(video) -> list[int]:
        node = nodes_video.SaveVideo.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
        output = node.execute(video, "stock", "auto", {"codec": "auto"})
        [file] = output.ui.as_dict()["images"]
        return components(InputImpl.VideoFromFile(str(folders / "output" / file["filename"])))

    return saved


CASES = [(format, {}) for format in available_formats()]
CASES += [
    ("mp4 (h265)", {"chroma": "4:4:4", "bit_depth": "12"}),
    ("mkv (ffv1)", {"bit_depth": "16"}),
    ("mp4 (h264)", {"save_output": False}),
]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("format, how", CASES, ids=str)
@torch.inference_mode()
def test_every_stock_node_reads_what_is_given_on(folders, format, how, channels):
    if channels == 4 and not FORMATS[format].alpha:
        channels = 3
    video = saver.save(images=images(channels), fps=FPS, audio=sound(), format=format, **how)[0]
    every = list(range(FRAMES))
    assert components(video) == every
    assert a_part(video) == every[2:6]
    assert saved_again(video) == every
    assert saved_by_stock(folders)(video) == every
