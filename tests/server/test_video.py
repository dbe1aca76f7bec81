"""Our VIDEO in the stock video nodes, against the VIDEO of VAEDecode + CreateVideo in the same prompt."""

import json

import numpy as np
import pytest
from async_frame_pipeline.pipeline import VERSION
from graph import Graph, Link, Outcome, refusal, run, skip_if_missing
from mp4 import read

FPS = 8.0
FRAMES = 17
SECONDS = FRAMES / FPS
WITH_AND_WITHOUT_AUDIO = pytest.mark.parametrize("audio_seconds", [None, SECONDS], ids=["silent", "audio"])


class Clip:
    """17 frames at 48x32, as our VIDEO and as the stock one, from one latent."""

    def __init__(self, seed: int, audio_seconds: float | None):
        self.graph = graph = Graph()
        self.vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed, name=f"clip {seed}")
        self.samples = graph("AFPTestLatent", batch=1, channels=16, latent_frames=5, height=4, width=6, seed=seed)
        sound = {} if audio_seconds is None else {"audio": graph("AFPTestAudio", seconds=audio_seconds)}
        self.audio = sound.get("audio")
        self.images = graph("VAEDecode", samples=self.samples, vae=self.vae)
        self.stock = graph("CreateVideo", images=self.images, fps=FPS, **sound)
        self.ours = graph(
            "AsyncVAEDecodeToVideo", samples=self.samples, vae=self.vae, fps=FPS, decoder="exact", **sound
        )


def save(graph: Graph, video: Link, prefix: str) -> Link:
    return graph("SaveVideo", video=video, filename_prefix=prefix, format="auto", codec="auto")


def saved(server, outcome: Outcome, node: Link):
    [file] = outcome.ui(node)["images"]
    assert outcome.ui(node)["animated"] == [True]
    return read(server.output_dir / file["subfolder"] / file["filename"])


def shown(outcome: Outcome, preview: Link) -> str:
    [text] = outcome.ui(preview)["text"]
    return text


@WITH_AND_WITHOUT_AUDIO
def test_save_video(server, seed, audio_seconds):
    clip = Clip(seed, audio_seconds)
    node = save(clip.graph, clip.ours, f"save_{seed}")
    outcome = run(server, clip.graph)
    video = saved(server, outcome, node)
    assert (len(video.pts), video.width, video.height, video.fps) == (FRAMES, 48, 32, FPS)
    assert (video.audio is not None) == (audio_seconds is not None)
    assert len(outcome.exact_decodes) == 1


@WITH_AND_WITHOUT_AUDIO
def test_get_video_components(server, seed, audio_seconds):
    clip = Clip(seed, audio_seconds)
    skip_if_missing(server, "GetVideoComponents", output=3)
    ours, stock = (clip.graph("GetVideoComponents", video=video) for video in (clip.ours, clip.stock))
    pictures = clip.graph("AFPTestCompareImages", a=ours[0], b=stock[0])
    values = [[clip.graph("PreviewAny", source=video[i]) for i in (2, 3)] for video in (ours, stock)]
    sound = clip.graph("AFPTestCompareAudio", a=ours[1], b=stock[1]) if clip.audio else None
    outcome = run(server, clip.graph)
    assert outcome.comparison(pictures)["equal"]
    assert [[shown(outcome, value) for value in side] for side in values] == [["8.0", "8"]] * 2
    if sound:
        assert outcome.comparison(sound)["equal"]


@WITH_AND_WITHOUT_AUDIO
@pytest.mark.parametrize(
    "start, duration, first, frames",
    [(0.0, 0.0, 0, 17), (0.5, 1.0, 4, 8), (-1.0, 0.0, 9, 8), (1.0, 0.0, 8, 9)],
    ids=["all", "middle", "from the end", "rest"],
)
def test_video_slice(server, seed, audio_seconds, start, duration, first, frames):
    clip = Clip(seed, audio_seconds)
    part = clip.graph("Video Slice", video=clip.ours, start_time=start, duration=duration, strict_duration=False)
    components = clip.graph("GetVideoComponents", video=part)
    expected = clip.graph("ImageFromBatch", image=clip.images, batch_index=first, length=frames)
    pictures = clip.graph("AFPTestCompareImages", a=components[0], b=expected)
    node = save(clip.graph, part, f"slice_{seed}")
    outcome = run(server, clip.graph)
    assert outcome.comparison(pictures)["equal"]
    video = saved(server, outcome, node)
    assert len(video.pts) == frames
    if audio_seconds is not None:
        assert abs(video.audio.seconds - frames / FPS) <= 1024 / video.audio.sample_rate


def test_video_slice_that_must_be_longer_than_the_video_is_refused_as_by_stock(server, seed):
    messages = []
    for which in ("ours", "stock"):
        clip = Clip(seed, None)
        video = getattr(clip, which)
        part = clip.graph("Video Slice", video=video, start_time=1.0, duration=5.0, strict_duration=True)
        save(clip.graph, part, f"long_{seed}")
        messages.append(refusal(server, clip.graph))
    assert messages[0] == messages[1]
    assert "Failed to slice video" in messages[0]


@WITH_AND_WITHOUT_AUDIO
def test_preview_any_decodes_nothing(server, seed, audio_seconds):
    clip = Clip(seed, audio_seconds)
    del clip.graph.prompt[clip.images.node], clip.graph.prompt[clip.stock.node]
    preview = clip.graph("PreviewAny", source=clip.ours)
    outcome = run(server, clip.graph)
    assert shown(outcome, preview)
    assert outcome.exact_decodes == []


@WITH_AND_WITHOUT_AUDIO
def test_two_consumers_of_one_video(server, seed, audio_seconds):
    clip = Clip(seed, audio_seconds)
    node = save(clip.graph, clip.ours, f"two_{seed}")
    components = clip.graph("GetVideoComponents", video=clip.ours)
    pictures = clip.graph("AFPTestCompareImages", a=components[0], b=clip.images)
    outcome = run(server, clip.graph)
    assert outcome.comparison(pictures)["equal"]
    assert len(saved(server, outcome, node).pts) == FRAMES


@WITH_AND_WITHOUT_AUDIO
def test_queued_again_after_a_change_downstream(server, seed, audio_seconds):
    """The second prompt finds the VIDEO in ComfyUI's cache and decodes from it once more."""
    clip = Clip(seed, audio_seconds)
    node = save(clip.graph, clip.ours, f"first_{seed}")
    first = saved(server, run(server, clip.graph), node)
    clip.graph.prompt[node.node]["inputs"]["filename_prefix"] = f"second_{seed}"
    second = saved(server, run(server, clip.graph), node)
    assert second.path.name.startswith(f"second_{seed}")
    assert len(second.pts) == FRAMES
    # Not to the bit: two decodes on a busy CPU were seen once to differ by a few codes, and it is not known why.
    difference = np.abs(np.stack(second.planes).astype(int) - np.stack(first.planes).astype(int))
    assert difference.mean() < 3


def test_ten_bits_through_the_stock_saver(server, seed):
    clip = Clip(seed, None)
    clip.graph.prompt[clip.ours.node]["inputs"]["bit_depth"] = 10
    node = save(clip.graph, clip.ours, f"ten_{seed}")
    video = saved(server, run(server, clip.graph), node)
    assert video.pixel_format == "yuv420p10le"
    assert len(video.pts) == FRAMES


def test_stock_saver_keeps_prompt_and_workflow(server, seed):
    clip = Clip(seed, None)
    node = save(clip.graph, clip.ours, f"meta_{seed}")
    workflow = {"nodes": [], "version": 0.4, "extra": {"seed": seed}}
    video = saved(server, run(server, clip.graph, {"extra_pnginfo": {"workflow": workflow}}), node)
    assert json.loads(video.metadata["workflow"]) == workflow
    assert json.loads(video.metadata["async_frame_pipeline"]) == VERSION
    assert json.loads(video.metadata["prompt"]) == clip.graph.prompt
