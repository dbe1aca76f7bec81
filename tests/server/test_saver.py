"""Save Video (Streaming) beyond formats: where frames come from, in which order they go, sound, previews, refusals."""

import functools
import json
import sys
from fractions import Fraction
from pathlib import Path

import av
import host
import numpy as np
import pytest
from graph import COLOURS, Graph, Link, Outcome, linked, refusal, run
from resume import disarm

sys.path.append(str(Path(__file__).resolve().parent.parent))

import ffmpeg

FPS = 8


def clip(
    graph: Graph, frames: int = 6, audio: Link | None = None, alpha: bool = False, size: tuple[int, int] = (32, 48)
) -> Link:
    images = graph("AFPTestPatches", frames=frames, height=size[0], width=size[1], alpha=alpha)
    return graph("CreateVideo", images=images, fps=FPS, **({} if audio is None else {"audio": audio}))


def save(graph: Graph, video: Link, prefix: str, format: str = "mp4 (h264)", **more) -> Link:
    more = {"quality": "high"} | more
    return graph("SaveVideoStreaming", video=video, filename_prefix=prefix, format=format, **more)


def files_of(server, outcome: Outcome, node: Link) -> list[Path]:
    folders = {"output": server.output_dir, "temp": server.base / "temp"}
    return [folders[file["type"]] / file["subfolder"] / file["filename"] for file in outcome.ui(node)["images"]]


def preview_of(server, outcome: Outcome, node: Link) -> Path:
    return server.base / "temp" / outcome.report(node)["preview"]["filename"]


def order(path: Path, at: int = 8) -> list[int]:
    """Which frames of the clip are in a file, as ffmpeg shows them; pixel (at, at) is in the first patch."""
    top_left = ffmpeg.rgb(path)[:, at, at]
    return [int(np.abs(COLOURS - colour).sum(axis=1).argmin()) for colour in top_left]


FORMATS = ["mp4 (h264)", "mp4 (h265)", "webm (vp9)", "mkv (av1)", "mkv (ffv1)", "mov (prores)"]


@pytest.mark.parametrize("format", FORMATS)
def test_ping_pong_and_repeat(server, seed, format):
    graph = Graph()
    sound = graph("AFPTestAudio", seconds=1.0)
    video = clip(graph, audio=sound)
    back = save(graph, video, f"back_{seed}", format, ping_pong=True)
    thrice = save(graph, video, f"thrice_{seed}", format, repeat=3)
    both = save(graph, video, f"both_{seed}", format, ping_pong=True, repeat=2)
    outcome = run(server, graph)
    there_and_back = [0, 1, 2, 3, 4, 5, 4, 3, 2, 1]
    for node, frames in ((back, there_and_back), (thrice, [*range(6)] * 3), (both, there_and_back * 2)):
        [path] = files_of(server, outcome, node)
        assert order(path) == frames
        with av.open(str(path)) as container:
            times = sorted(
                packet.pts * packet.time_base for packet in container.demux(video=0) if packet.pts is not None
            )
        assert all(abs(time - Fraction(i, FPS)) <= Fraction(1, 1000) for i, time in enumerate(times)) and len(
            times
        ) == len(frames)
        video_stream, audio, container = ffmpeg.probe(path)
        assert abs(ffmpeg.seconds(video_stream, container) - Fraction(len(frames), FPS)) <= Fraction(25, 1000)
        assert abs(len(ffmpeg.sound(path)) / int(audio["sample_rate"]) - len(frames) / FPS) <= 0.025, (
            "silence after the sound"
        )


def test_pictures_repeat_as_often_as_they_say(server, seed):
    graph = Graph()
    video = clip(graph)
    nodes = {
        (format, repeat): save(graph, video, f"loop_{seed}_{repeat}", format, repeat=repeat)
        for format in ("gif", "webp (animated)")
        for repeat in (0, 1, 3)
    }
    pong = save(graph, video, f"pong_{seed}", "webp (animated)", ping_pong=True)
    outcome = run(server, graph)

    def loop(node):
        from PIL import Image

        with Image.open(files_of(server, outcome, node)[0]) as picture:
            return picture.info.get("loop"), picture.n_frames

    assert loop(nodes["webp (animated)", 0]) == loop(nodes["gif", 0]) == (0, 6), "for ever"
    assert loop(nodes["webp (animated)", 3]) == (3, 6), "WebP counts how often it plays"
    assert loop(nodes["gif", 3]) == (2, 6), "GIF counts how often it starts again"
    assert (loop(nodes["webp (animated)", 1]), loop(nodes["gif", 1])) == ((1, 6), (None, 6)), "once"
    assert loop(pong) == (0, 10)


@pytest.mark.parametrize("format", ["mp4 (h264)", "webm (vp9)", "mkv (ffv1)"])
def test_length_of_the_sound(server, seed, format):
    cases = [
        ("video", 2.0, 6, 0.75),
        ("video", 0.25, 6, 0.75),
        ("longest", 2.0, 6, 2.0),
        ("longest", 0.25, 6, 0.75),
        ("shortest", 2.0, 6, 0.75),
        ("shortest", 0.3, 3, 0.375),
    ]
    graph = Graph()
    nodes = [
        save(
            graph,
            clip(graph, audio=graph("AFPTestAudio", seconds=seconds)),
            f"sound_{seed}",
            format,
            audio_length=length,
        )
        for length, seconds, _, _ in cases
    ]
    outcome = run(server, graph)
    for node, (length, seconds, frames, heard) in zip(nodes, cases, strict=True):
        [path] = files_of(server, outcome, node)
        assert order(path) == list(range(frames)), (length, seconds)
        _, audio, _ = ffmpeg.probe(path)
        rate = int(audio["sample_rate"])
        assert abs(len(ffmpeg.sound(path)) / rate - heard) <= 1024 / rate, (length, seconds)


def test_one_decode_gives_a_file_and_the_frames(server, seed):
    graph = Graph()
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed)
    samples = graph("AFPTestLatent", batch=1, channels=16, latent_frames=3, height=4, width=6, seed=seed)
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=FPS, decoder="exact")
    node = save(graph, video, f"kept_{seed}", keep_frames=True)
    same = graph("AFPTestCompareImages", a=node[1], b=graph("VAEDecode", samples=samples, vae=vae))
    outcome = run(server, graph)
    assert outcome.comparison(same)["equal"]
    assert len(outcome.exact_decodes) == 1
    with av.open(str(files_of(server, outcome, node)[0])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9


def test_the_second_of_two_savers_says_that_it_decodes_again(server, seed):
    graph = Graph()
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed)
    samples = graph("AFPTestLatent", batch=1, channels=16, latent_frames=2, height=4, width=6, seed=seed)
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=FPS, decoder="exact")
    save(graph, video, f"first_{seed}")
    save(graph, video, f"second_{seed}", quality="low")
    outcome = run(server, graph)
    assert len(outcome.exact_decodes) == 2
    assert len([line for line in outcome.our_log if line.startswith("decoded again: another node")]) == 1


@pytest.mark.parametrize("how", ["in memory", "file"])
def test_frames_of_other_videos_are_given_on_too(server, seed, how):
    graph = Graph()
    video = clip(graph)
    if how == "file":
        video = save(graph, video, f"source_{seed}", "mkv (ffv1)")[0]
    node = save(graph, video, f"kept_{seed}", keep_frames=True)
    images = graph("AFPTestPatches", frames=6, height=32, width=48)
    same = graph("AFPTestCompareImages", a=node[1], b=images)
    comparison = run(server, graph).comparison(same)
    assert comparison["equal"] or comparison["max_difference"] <= 0.51 / 255


def test_frames_that_would_not_be_kept_are_refused_before_the_work(server, seed):
    graph = Graph()
    node = save(graph, clip(graph), f"kept_{seed}", keep_frames=False)
    graph("AFPTestCompareImages", a=node[1], b=node[1])
    with pytest.raises(host.PromptRejected, match="switch on keep_frames"):
        server.run(graph.prompt)


def test_frames_are_kept_where_it_was_not_known_that_they_would_be_used(server, seed):
    graph = Graph()
    node = save(graph, clip(graph), f"kept_{seed}", keep_frames=linked(graph, False))
    same = graph("AFPTestCompareImages", a=node[1], b=graph("AFPTestPatches", frames=6, height=32, width=48))
    assert run(server, graph).comparison(same)["equal"]


def test_a_small_copy_is_shown_of_what_browsers_do_not_play(server, seed):
    graph = Graph()
    sound = graph("AFPTestAudio", seconds=1.0)
    video = clip(graph, audio=sound, size=(720, 1282))
    nodes = [save(graph, video, f"copy_{seed}", format) for format in ("mov (prores)", "mkv (ffv1)", "mp4 (h265)")]
    plays = save(graph, video, f"copy_{seed}")
    outcome = run(server, graph)
    for node in nodes:
        [saved], preview = files_of(server, outcome, node), preview_of(server, outcome, node)
        assert saved.is_relative_to(server.output_dir) and preview.is_relative_to(server.base / "temp")
        assert preview.name == f"{saved.stem}preview_00001_.mp4", "downloaded, it is not taken for the file"
        assert order(preview, at=4) == order(saved) == list(range(6))
        stream, audio, _ = ffmpeg.probe(preview)
        assert (stream["codec_name"], stream["pix_fmt"], stream["width"], stream["height"]) == (
            "h264",
            "yuv420p",
            640,
            360,
        )
        assert stream["color_space"] == "bt709" and audio["codec_name"] == "aac"
        assert outcome.report(node)["files"][0]["path"] == str(saved)
    assert len(files_of(server, outcome, plays)) == 1 and outcome.report(plays)["preview"] is None


def test_a_preview_that_cannot_be_made_costs_no_video(server, seed):
    """The second file that is opened is the preview's."""
    graph = Graph()
    latent = graph("AFPTestLatent", batch=1, channels=16, latent_frames=2, height=4, width=4, seed=seed)
    latent = graph("AFPTestFault", samples=latent, lane="open", at=2, fault="disk full")
    video = graph("AsyncVAEDecodeToVideo", samples=latent, vae=graph("AFPTestVAE", kind="wan 2.1", seed=seed), fps=FPS)
    node = save(graph, video, f"alone_{seed}", "mkv (ffv1)", preview=True)
    try:
        outcome = run(server, graph)
    finally:
        disarm(server)
    [path] = files_of(server, outcome, node)
    assert int(ffmpeg.probe(path)[0]["nb_read_frames"]) == 5
    assert [line for line in outcome.our_log if line.startswith("the preview is left out, the run goes on: OSError")]


@pytest.mark.parametrize("codec", ["h264", "h265", "av1"])
def test_nvenc_that_is_not_here_falls_back_to_software(server, seed, codec):
    if (
        f"mp4 ({codec} nvenc)"
        in server.get("/object_info/SaveVideoStreaming")["SaveVideoStreaming"]["input"]["optional"]["format"][1][
            "options"
        ]
    ):
        pytest.skip("this machine has NVENC")
    graph = Graph()
    node = save(graph, clip(graph, size=(144, 160)), f"nvenc_{seed}", f"mp4 ({codec} nvenc)")
    outcome = run(server, graph)
    [path] = files_of(server, outcome, node)
    assert ffmpeg.probe(path)[0]["codec_name"] == {"h265": "hevc"}.get(codec, codec)
    assert [line for line in outcome.our_log if f"mp4 ({codec}) is written instead of mp4 ({codec} nvenc)" in line]


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"format": "avi"}, "format: 'avi' not in ['mp4 (h264)',"),
        ({"filename_prefix": "../x"}, "does not name a place inside the output folder"),
        ({"format": "gif", "quality": "lossless"}, "gif has the qualities very high, high, medium, low; got lossless"),
        ({"format": "webm (vp9)", "bit_depth": "10"}, "webm (vp9) at 4:2:0 has the bit depths 8; got 10"),
        ({"format": "mp4 (av1)", "chroma": "4:4:4"}, "mp4 (av1) has the chroma 4:2:0; got 4:4:4"),
        ({"format": "mp4 (h264)", "audio_codec": "pcm"}, "mp4 (h264) can have sound as aac, opus, flac; got pcm"),
        ({"format": "png sequence", "repeat": 2}, "png sequence cannot repeat"),
        ({"bit_depth": "9"}, "bit_depth: '9' not in ['auto', '8',"),
        ({"quality": "best"}, "quality: 'best' not in"),
        ({"format": "gif", "crf": 20}, "gif has no CRF, got 20"),
        ({"video": None}, "connect a video, or images"),
        ({"images": ["1", 0]}, "a video and images are connected"),
        ({"speed": "warp"}, "not in"),
    ],
    ids=str,
)
def test_what_a_format_does_not_have_is_refused_before_anything_runs(server, seed, inputs, message):
    graph = Graph()
    graph("AFPTestPatches", frames=1, height=32, width=32)
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed, name=f"refused {seed}")
    samples = graph("AFPTestLatent", batch=1, channels=16, latent_frames=2, height=4, width=4, seed=seed)
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=FPS)
    saver = graph.prompt[save(graph, video, f"refused_{seed}").node]
    saver["inputs"] |= inputs
    if saver["inputs"]["video"] is None:
        del saver["inputs"]["video"]
    with pytest.raises(host.PromptRejected) as rejected:
        server.run(graph.prompt)
    assert message in str(rejected.value)
    [refused] = rejected.value.body["node_errors"].values()
    [error] = refused["errors"]
    blamed = list(inputs)[-1] if "video" not in inputs else "filename_prefix"
    assert (refused["class_type"], error["extra_info"]["input_name"]) == ("SaveVideoStreaming", blamed)
    assert not list(server.output_dir.rglob(f"refused_{seed}*"))


def test_every_choice_may_come_from_another_node(server, seed):
    graph = Graph()
    choices = {
        "filename_prefix": f"linked_{seed}",
        "format": "mkv (h265)",
        "quality": "low",
        "speed": "fastest",
        "bit_depth": "12",
        "chroma": "4:4:4",
        "color": "BT.601",
        "dither": True,
        "alpha": False,
        "audio_codec": "flac",
        "audio_length": "video",
        "ping_pong": True,
        "repeat": 2,
        "keep_unfinished": True,
        "preview": True,
        "keep_frames": False,
        "fps": 12.5,
        "crf": 30.0,
        "save_output": True,
    }
    known = server.get("/object_info/SaveVideoStreaming")["SaveVideoStreaming"]["input"]
    assert choices.keys() | {"video", "images", "audio"} == known["required"].keys() | known["optional"].keys()
    video = clip(graph, audio=graph("AFPTestAudio", seconds=1.0))
    node = graph("SaveVideoStreaming", video=video, **{name: linked(graph, value) for name, value in choices.items()})
    outcome = run(server, graph)
    [path] = files_of(server, outcome, node)
    video, sound = ffmpeg.probe(path)[:2]
    assert path.name == f"linked_{seed}_00001_.mkv"
    assert (video["codec_name"], video["pix_fmt"], video["color_space"]) == ("hevc", "yuv444p12le", "smpte170m")
    assert (sound["codec_name"], len(order(path))) == ("flac", 20)
    assert preview_of(server, outcome, node).parent == server.base / "temp"


def test_too_fast_for_a_gif(server, seed):
    graph = Graph()
    images = graph("AFPTestPatches", frames=4, height=32, width=32)
    save(graph, graph("CreateVideo", images=images, fps=60), f"gif_{seed}", "gif")
    assert "GIF plays at most 50 frames a second, got 60" in refusal(server, graph)
    assert not list(server.output_dir.rglob(f"*gif_{seed}*"))


def test_too_small_for_av1(server, seed):
    """SVT-AV1 would hang, and the server with it."""
    graph = Graph()
    save(graph, clip(graph, size=(16, 100)), f"small_{seed}", "mp4 (av1)")
    assert "needs at least 32 pixels a side, got 100x16" in refusal(server, graph)
    assert not list(server.output_dir.rglob(f"*small_{seed}*"))


# ---------------------------------------------------------------------------- loaded files


@pytest.fixture(scope="module")
def loadable(server):
    """Puts a file where Load Video finds it."""

    def put(path: Path) -> str:
        target = server.base / "input" / f"loadable_{path.parent.name}_{path.name}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
        return target.name

    return put


@pytest.fixture(scope="module")
def ten_frames(server, loadable):
    """Ten frames with this much sound in this format, as Load Video finds them; each is saved once."""

    @functools.cache
    def made(format: str, seconds: float) -> str:
        graph = Graph()
        source = save(graph, clip(graph, 10, graph("AFPTestAudio", seconds=seconds)), f"ten_frames_{seconds}", format)
        return loadable(files_of(server, run(server, graph), source)[0])

    return made


@pytest.mark.parametrize("format", ["mp4 (h264)", "mkv (ffv1)", "webm (vp9)", "gif"])
@pytest.mark.parametrize("start, duration, first, frames", [(0.0, 0.0, 0, 10), (0.5, 0.5, 4, 4), (-0.5, 0.0, 6, 4)])
def test_a_loaded_file_and_parts_of_it(server, seed, ten_frames, format, start, duration, first, frames):
    graph = Graph()
    video = graph("LoadVideo", file=ten_frames(format, 1.25))
    part = graph("Video Slice", video=video, start_time=start, duration=duration, strict_duration=False)
    node = save(graph, part, f"part_{seed}", "mkv (ffv1)")
    outcome = run(server, graph)
    [path] = files_of(server, outcome, node)
    if start < 0 and format == "webm (vp9)":
        # Its end, from which ComfyUI counts, is that of the sound: a few milliseconds later.
        first, frames = 7, 3
    assert order(path) == list(range(first, first + frames))
    _, audio, _ = ffmpeg.probe(path)
    if format == "gif":
        assert audio is None
    else:
        assert abs(len(ffmpeg.sound(path)) / int(audio["sample_rate"]) - frames / FPS) <= 0.03
    assert not outcome.report(node)["already_decoded"], "decoded while it was written"


@pytest.mark.parametrize("start, duration", [(0.0, 0.0), (0.5, 0.0), (0.25, 0.5)])
@pytest.mark.parametrize("length", ["video", "longest", "shortest"])
def test_sound_of_a_part_is_sample_for_sample_that_part(server, seed, ten_frames, length, start, duration):
    graph = Graph()
    video = graph("LoadVideo", file=ten_frames("mov (prores)", 1.0))
    part = graph("Video Slice", video=video, start_time=start, duration=duration, strict_duration=False)
    node = save(graph, part, f"part_{seed}", "mov (prores)", audio_length=length)
    [path] = files_of(server, run(server, graph), node)
    heard = ffmpeg.sound(path)
    first, last = round(start * 44100), round(min(10 / FPS, start + duration if duration else 10 / FPS) * 44100)
    time = np.arange(first, last) / 44100
    # After its last sample it is padded with silence, as the source was.
    tones = [0.3 * np.sin(2 * np.pi * 220 * (channel + 1) * time) * (time < 1) for channel in range(2)]
    assert heard.shape == (last - first, 2)
    wrong = np.abs(heard - np.stack(tones, axis=1)).max(axis=1) > 2**-22  # PCM of 24 bits
    assert not wrong.any(), (np.flatnonzero(wrong)[:5], len(wrong))


def test_a_part_of_frames_in_memory_with_sound(server, seed):
    """ComfyUI makes a file in memory of it, whose frames and sound are then read side by side."""
    graph = Graph()
    video = clip(graph, 40, graph("AFPTestAudio", seconds=5.0))
    part = graph("Video Slice", video=video, start_time=1.0, duration=3.0, strict_duration=False)
    node = save(graph, part, f"part_{seed}", "mkv (ffv1)", keep_frames=True)
    [path] = files_of(server, run(server, graph), node)
    assert order(path) == [i % len(COLOURS) for i in range(8, 32)]
    heard, time = ffmpeg.sound(path), np.arange(44100, 44100 * 4) / 44100
    assert abs(len(heard) - len(time)) <= 1
    tone = 0.3 * np.sin(2 * np.pi * 220 * time)
    assert np.corrcoef(heard[: len(time), 0], tone[: len(heard)])[0, 1] > 0.99, "AAC, but the tone it was"


def test_transparency_of_a_loaded_file(server, seed, loadable):
    graph = Graph()
    source = save(graph, clip(graph, alpha=True), f"clear_{seed}", "mkv (ffv1)")
    name = loadable(files_of(server, run(server, graph), source)[0])
    graph = Graph()
    video = graph("LoadVideo", file=name)
    kept, left_out = (
        save(graph, video, f"clear_{seed}_{alpha}", "mov (prores)", alpha=alpha) for alpha in (True, False)
    )
    outcome = run(server, graph)
    assert ffmpeg.probe(files_of(server, outcome, kept)[0])[0]["pix_fmt"] == "yuva444p12le"
    assert ffmpeg.probe(files_of(server, outcome, left_out)[0])[0]["pix_fmt"] == "yuv422p10le"
    alpha = ffmpeg.rgb(files_of(server, outcome, kept)[0], alpha=True)[..., 3]
    numbers = np.arange(2 * 3).reshape(2, 3) + np.arange(6)[:, None, None]
    assert np.abs(alpha[:, 8::16, 8::16] - numbers % 5 / 4).max() < 0.01


def test_of_a_damaged_file_is_saved_what_can_be_decoded(server, seed, loadable, tmp_path):
    path, noise = tmp_path / f"damaged_{seed}.mp4", np.random.default_rng(1)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(40):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(noise.integers(0, 256, (64, 64, 3), np.uint8), "rgb24"))
            )
        container.mux(stream.encode(None))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    graph = Graph()
    node = save(graph, graph("LoadVideo", file=loadable(path)), f"damaged_{seed}", "mkv (ffv1)")
    outcome = run(server, graph)
    assert [line for line in outcome.our_log if "the file is damaged" in line]
    with av.open(str(files_of(server, outcome, node)[0])) as container:
        assert 10 < sum(1 for _ in container.decode(video=0)) < 40


def test_ten_bits_of_a_loaded_file_are_kept(server, seed, loadable):
    graph = Graph()
    source = save(graph, clip(graph), f"ten_{seed}", "mp4 (h265)", bit_depth="10")
    name = loadable(files_of(server, run(server, graph), source)[0])
    graph = Graph()
    node = save(graph, graph("LoadVideo", file=name), f"ten_{seed}_again")
    assert ffmpeg.probe(files_of(server, run(server, graph), node)[0])[0]["pix_fmt"] == "yuv420p10le"


def test_full_range_and_bt601(server, seed):
    graph = Graph()
    video = clip(graph)
    how = {
        "BT.709": ("tv", "bt709"),
        "BT.709 full range": ("pc", "bt709"),
        "BT.601": ("tv", "smpte170m"),
        "BT.601 full range": ("pc", "smpte170m"),
    }
    nodes = {
        (color, format): save(graph, video, f"colour_{seed}", format, color=color, quality=quality, chroma="4:4:4")
        for color in how
        for format, quality in (("mp4 (h264)", "lossless"), ("mkv (ffv1)", "high"))
    }
    outcome = run(server, graph)
    for (color, format), node in nodes.items():
        [path] = files_of(server, outcome, node)
        stream, _, _ = ffmpeg.probe(path)
        assert (stream["color_range"], stream["color_space"]) == how[color], (color, format)
        got, numbers = ffmpeg.rgb(path)[:, 8::16, 8::16], np.arange(6).reshape(2, 3) + np.arange(6)[:, None, None]
        # 1.64 codes is what rounding of Y, Cb and Cr comes to, 1.15 is ffmpeg's own error.
        assert np.abs(got - COLOURS[numbers % 12]).max() * 255 <= 2.8, (color, format)


def test_the_report_tells_how_far_the_encoder_lags(server, seed):
    graph = Graph()
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed)
    samples = graph("AFPTestLatent", batch=1, channels=16, latent_frames=10, height=4, width=6, seed=seed)
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=vae, fps=FPS)
    x264, ffv1 = save(graph, video, f"lag_{seed}"), save(graph, video, f"lag_{seed}", "mkv (ffv1)")
    outcome = run(server, graph)
    held = [outcome.report(node)["held_frames"] for node in (x264, ffv1)]
    assert 10 <= held[0] <= 37, "x264 looks 10 frames ahead"
    assert held[1] <= 4, "FFV1 needs no other frame, but some threads"
    assert f"up to {held[0]} frames held" in outcome.report(x264)["text"]


def test_settings_go_into_the_metadata(server, seed):
    graph = Graph()
    node = save(graph, clip(graph), f"settings_{seed}", "mov (prores)")
    with av.open(str(files_of(server, run(server, graph), node)[0])) as container:
        assert json.loads(container.metadata["prompt"]) == graph.prompt
