"""Files of SaveVideoStreaming, reopened: pictures, timing, sound, tags, metadata."""

import itertools
import json
import re
from fractions import Fraction

import av
import numpy as np
import pytest
from async_frame_pipeline.pipeline import VERSION
from async_frame_pipeline.pipeline.sinks.formats import FORMATS
from av.video.reformatter import ColorRange, Colorspace
from graph import Graph, Link, linked, run
from mp4 import Video, boxes, read

AAC_FRAME_SAMPLES = 1024
BT709_LIMITED = (1, 1, 1, 1)


def latent_video(graph: Graph, seed: int, latent_frames: int = 3, fps: float = 16, **inputs: object) -> Link:
    """4 * latent_frames - 3 frames at 48x32 of noise, as our VIDEO."""
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed)
    samples = graph("AFPTestLatent", batch=1, channels=16, latent_frames=latent_frames, height=4, width=6, seed=seed)
    return graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=fps, **inputs)


def save(graph: Graph, video: Link, prefix: str, quality: str = "high") -> Link:
    return graph("SaveVideoStreaming", video=video, filename_prefix=prefix, format="mp4 (h264)", quality=quality)


def saved(server, graph: Graph, node: Link, extra_data: dict | None = None) -> Video:
    """Run the prompt and reopen the file that `node` reports."""
    ui = run(server, graph, extra_data).ui(node)
    [file] = ui["images"]
    assert ui["animated"] == [True]
    assert file["type"] == "output"
    video = read(server.output_dir / file["subfolder"] / file["filename"])
    assert server.download(file["filename"], file["subfolder"]) == video.path.read_bytes()
    return video


@pytest.mark.parametrize("latent_frames", [1, 2, 12])
def test_frame_count_and_size(server, seed, latent_frames):
    graph = Graph()
    video = saved(server, graph, save(graph, latent_video(graph, seed, latent_frames), f"count_{seed}"))
    assert len(video.pts) == 4 * latent_frames - 3
    assert (video.width, video.height, video.pixel_format) == (48, 32, "yuv420p")


@pytest.mark.parametrize("fps", [1, 8, 16, 23.976, 24, 29.97, 60])
def test_timing(server, seed, fps):
    graph = Graph()
    video = saved(server, graph, save(graph, latent_video(graph, seed, fps=fps), f"fps_{seed}"))
    rate = Fraction(round(fps * 1000), 1000)
    assert video.fps == rate
    assert all(a < b for a, b in itertools.pairwise(video.pts))
    # The container stores times in ticks; half a tick of rounding is all that may be lost.
    assert all(abs(pts - i / rate) < Fraction(1, 10_000) for i, pts in enumerate(video.pts))
    assert abs(video.seconds - 9 / rate) < Fraction(1, 10_000)


@pytest.mark.parametrize("audio_seconds", [0.1, 9 / 16, 3.0], ids=["shorter", "as long", "longer"])
@pytest.mark.parametrize(
    "sample_rate, channels, stored_rate",
    [(44100, 2, 44100), (48000, 1, 48000), (16000, 2, 16000), (22000, 2, 48000)],  # AAC has no 22000 Hz
)
def test_audio_is_as_long_as_the_video(server, seed, audio_seconds, sample_rate, channels, stored_rate):
    graph = Graph()
    audio = graph("AFPTestAudio", seconds=audio_seconds, sample_rate=sample_rate, channels=channels)
    video = saved(server, graph, save(graph, latent_video(graph, seed, audio=audio), f"audio_{seed}"))
    assert (video.audio.sample_rate, video.audio.channels) == (stored_rate, channels)
    assert abs(video.audio.samples - stored_rate * 9 / 16) <= AAC_FRAME_SAMPLES
    assert len(video.pts) == 9


@pytest.mark.parametrize("bit_depth, pixel_format", [(8, "yuv420p"), (10, "yuv420p10le")])
def test_tagged_as_it_is_encoded(server, seed, bit_depth, pixel_format):
    graph = Graph()
    video = saved(server, graph, save(graph, latent_video(graph, seed, bit_depth=bit_depth), f"tags_{seed}"))
    assert video.colour == BT709_LIMITED
    assert video.pixel_format == pixel_format


def test_playable_before_it_is_downloaded_whole(server, seed):
    graph = Graph()
    video = saved(server, graph, save(graph, latent_video(graph, seed), f"faststart_{seed}"))
    order = boxes(video.path)
    assert order.index("moov") < order.index("mdat")


def test_prompt_and_workflow_are_embedded(server, seed):
    workflow = {"nodes": [{"id": 1, "type": 'Ünïcode "quoted" 日本語'}], "version": 0.4, "extra": {"seed": seed}}
    graph = Graph()
    node = save(graph, latent_video(graph, seed), f"metadata_{seed}")
    video = saved(server, graph, node, {"extra_pnginfo": {"workflow": workflow}})
    assert json.loads(video.metadata["workflow"]) == workflow
    assert json.loads(video.metadata["prompt"]) == graph.prompt
    assert json.loads(video.metadata["async_frame_pipeline"]) == VERSION


def test_what_nodes_of_other_packs_give_is_saved(server, seed):
    """Sound that is no dict, a frame rate as text, an IS_CHANGED of bytes; under the longest name there can be."""
    graph = Graph()
    sound, rate = graph("AFPTestLazyAudio", seconds=3.0), linked(graph, "24000/1001")
    prefix = f"{server.output_dir}/%date:yyyy%_{seed}/" + "x" * 244
    node = save(graph, latent_video(graph, seed, fps=rate, audio=sound), prefix)
    outcome = run(server, graph, {"extra_pnginfo": {"workflow": {"nodes": []}, "名": 1, "a\0b": 1}})
    [file] = outcome.ui(node)["images"]
    assert re.fullmatch(rf"20\d\d_{seed}", file["subfolder"]) and file["filename"] == "x" * 244 + "_00001_.mp4"
    video = read(server.output_dir / file["subfolder"] / file["filename"])
    assert video.fps == Fraction(24000, 1001) and video.audio.sample_rate == 8000
    assert json.loads(video.metadata["workflow"]) == {"nodes": []} and json.loads(video.metadata["名"]) == 1
    prompt = json.loads(video.metadata["prompt"])
    assert {number: each["inputs"] for number, each in prompt.items()} == {
        number: each["inputs"] for number, each in graph.prompt.items()
    }
    [line] = [line for line in outcome.our_log if "left out" in line]
    assert "is_changed" in line


# The first format of each container.
CONTAINED_FIRST = {each.container.name: each.name for each in reversed(FORMATS.values())}


@pytest.mark.parametrize("format", CONTAINED_FIRST.values())
def test_disable_metadata_is_honoured(fp16_server, seed, format):
    graph = Graph()
    node = graph(
        "SaveVideoStreaming",
        video=latent_video(graph, seed),
        filename_prefix=f"metadata_{seed}/a",
        format=format,
        quality="high",
    )
    outcome = run(fp16_server, graph, {"extra_pnginfo": {"workflow": {"secret": "yes"}}})
    [file] = outcome.ui(node)["images"]
    folder = fp16_server.output_dir / file["subfolder"]
    assert len(list(folder.iterdir())) == (9 if FORMATS[format].is_folder else 1), "no picture beside it"
    for path in folder.iterdir():
        data = path.read_bytes()
        words = (b"secret", b"SaveVideoStreaming", b"workflow", b"prompt", b"async_frame_pipeline")
        assert not any(word in data for word in words)


def test_pictures_are_those_of_the_decoded_image(server, seed):
    """Frame by frame, read as BT.709, against the IMAGE: 37.8 dB and more, the rest being 4:2:0 and x264 at 14."""
    graph = Graph()
    sample = graph("SampleVideoLatent")
    samples = graph("AFPTestCropLatent", samples=sample[0], latent_frames=3, height=20, width=30)
    image = graph("VAEDecode", samples=samples, vae=sample[1])
    graph("AFPTestDumpImages", images=image, name=f"pictures_{seed}")
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=sample[1], fps=16)
    file = saved(server, graph, save(graph, video, f"pictures_{seed}", quality="very high"))
    expected = np.load(server.base / f"pictures_{seed}.npy") * 255
    with av.open(str(file.path)) as container:
        decoded = [
            frame.to_ndarray(
                format="rgb24",
                src_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.MPEG,
                dst_color_range=ColorRange.JPEG,
            )
            for frame in container.decode(video=0)
        ]
    assert len(decoded) == len(expected) == 9
    errors = [np.square(a - b).mean() for a, b in zip(decoded, expected, strict=True)]
    psnr = [10 * np.log10(255**2 / error) for error in errors]
    assert min(psnr) > 37, psnr


@pytest.mark.parametrize(
    "rgb", [0xFF0000, 0x00FF00, 0x0000FF, 0xFFFFFF, 0x000000, 0xC08060, 0x2060A0], ids="{:06x}".format
)
@pytest.mark.parametrize("bit_depth", [8, 10])
def test_colours_by_the_book(server, bit_depth, rgb):
    """A picture of one colour, against ITU-R BT.709 written out here: within 2 code values of 8 bits."""
    if bit_depth == 10 and "bit_depth" not in json.dumps(server.get("/object_info/CreateVideo")):
        pytest.skip("this ComfyUI's videos have 8 bits")
    graph = Graph()
    image = graph("EmptyImage", width=64, height=64, batch_size=2, color=rgb)
    video = graph("CreateVideo", images=image, fps=16, bit_depth=bit_depth)
    file = saved(server, graph, save(graph, video, f"colour_{bit_depth}_{rgb:06x}", quality="very high"))
    yuv = file.planes[0].reshape(-1, 64).astype(np.float64) / 2 ** (bit_depth - 8)
    y, u, v = yuv[:64].mean(), yuv[64:80].mean(), yuv[80:].mean()
    luma, blue, red = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    r, b = luma + 1.5748 * red, luma + 1.8556 * blue
    g = (luma - 0.2126 * r - 0.0722 * b) / 0.7152
    expected = [rgb >> 16, rgb >> 8 & 255, rgb & 255]
    assert np.abs(np.array([r, g, b]) * 255 - expected).max() <= 2


def test_quality_orders_the_file_sizes(server, seed):
    graph = Graph()
    video = latent_video(graph, seed, latent_frames=5)
    nodes = [save(graph, video, f"{quality}_{seed}", quality) for quality in ("very high", "high", "medium", "low")]
    outcome = run(server, graph)
    sizes = [(server.output_dir / outcome.ui(node)["images"][0]["filename"]).stat().st_size for node in nodes]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_names_count_up_and_nothing_is_overwritten(server, seed):
    names = []
    for attempt in range(2):
        graph = Graph()
        node = save(graph, latent_video(graph, 1000 * seed + attempt), f"sub/folder/twice_{seed}")
        names.append(saved(server, graph, node).path.relative_to(server.output_dir).as_posix())
    assert names == [f"sub/folder/twice_{seed}_00001_.mp4", f"sub/folder/twice_{seed}_00002_.mp4"]


@pytest.mark.parametrize("width, height", [(45, 33), (64, 33), (45, 32)])
def test_odd_sizes_are_padded_to_even_ones(server, seed, width, height):
    graph = Graph()
    image = graph("EmptyImage", width=width, height=height, batch_size=5, color=seed & 0xFFFFFF)
    video = graph("CreateVideo", images=image, fps=16)
    file = saved(server, graph, save(graph, video, f"odd_{seed}"))
    assert (file.width, file.height) == (width + width % 2, height + height % 2)
    assert len(file.pts) == 5


def test_saves_the_stock_video_and_a_loaded_file_too(server, seed):
    """CreateVideo with sound -> our saver -> its own VIDEO output -> our saver again."""
    graph = Graph()
    image = graph("EmptyImage", width=64, height=48, batch_size=8, color=seed & 0xFFFFFF)
    audio = graph("AFPTestAudio", seconds=0.5)
    first = save(graph, graph("CreateVideo", images=image, fps=16, audio=audio), f"first_{seed}")
    second = save(graph, first, f"second_{seed}")
    file = saved(server, graph, second)
    assert len(file.pts) == 8
    assert file.fps == 16
    assert abs(file.audio.seconds - 0.5) <= 2 * AAC_FRAME_SAMPLES / file.audio.sample_rate
    assert file.colour == BT709_LIMITED


def test_report_tells_what_the_lanes_did(server, seed):
    graph = Graph()
    node = save(graph, latent_video(graph, seed, latent_frames=5), f"report_{seed}")
    report = run(server, graph).report(node)
    assert report["frames"] == 17
    assert report["total_seconds"] >= report["span_seconds"] > 0
    assert 0 < report["write_seconds"] < report["total_seconds"]
    assert "17 frames" in report["text"]
