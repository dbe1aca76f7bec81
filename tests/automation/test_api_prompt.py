"""The swap in API prompts."""

from __future__ import annotations

import copy
import json

import pytest
from async_frame_pipeline.automation import Change, FormatError, swap


def prompt(**nodes: tuple) -> dict:
    """Nodes by "n" and their id: n8=("VAEDecode", {"samples": ["3", 0]})."""
    return {id[1:].replace("_", ":"): {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in nodes.items()}


def a_video(decode: str = "VAEDecode", **more: tuple) -> dict:
    tiles = {"tile_size": 512, "overlap": 64} if decode == "VAEDecodeTiled" else {}
    return prompt(
        n9=("CreateVideo", {"fps": 16, "images": ["8", 0], "bit_depth": 10, "audio": ["5", 0]}),
        n3=("KSampler", {"latent_image": ["4", 0], "seed": 7}),
        n8=(decode, {"samples": ["3", 0], "vae": ["2", 0], **tiles}),
        n2=("VAELoader", {"vae_name": "wan_2.1_vae.safetensors"}),
        n4=("EmptyLatentVideo", {}),
        n5=("LoadAudio", {"audio": "a.wav"}),
        n10=("SaveVideo", {"video": ["9", 0], "names": ["8", "9"]}),
    ) | prompt(**more)


def swapped(before: dict, **options: bool) -> tuple[dict, list[Change]]:
    """Swap, and check what must hold of every swap."""
    untouched = copy.deepcopy(before)
    after, changes = swap(before, **options)
    assert before == untouched, "the prompt given was modified"
    restored, _ = swap(after, reverse=True)
    assert json.dumps(restored) == json.dumps(before), "the reverse of a swap must give the same prompt"
    for id, node in after.items():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and name != "names":
                assert value[0] in after, f"{name} of {id} is linked to a node that is gone"
    return after, changes


def outcomes(changes: list[Change]) -> list[tuple[tuple, str]]:
    return [(change.nodes, "+".join(change.after) or change.reason) for change in changes]


def test_a_decode_and_its_create_video_become_one_node():
    after, changes = swapped(a_video())
    assert outcomes(changes) == [(("8", "9"), "AsyncVAEDecodeToVideo")]
    assert after["9"]["class_type"] == "AsyncVAEDecodeToVideo"
    assert after["9"]["inputs"] == {"samples": ["3", 0], "vae": ["2", 0], "fps": 16, "bit_depth": 10, "audio": ["5", 0]}
    assert after["10"] == a_video()["10"], "links to the video hold"


@pytest.mark.parametrize(
    "more",
    [
        {"n11": ("PreviewImage", {"images": ["8", 0]})},
        {"n11": ("SaveVideo", {"video": ["9", 0]})},  # each use of the video would decode it again
        {"n11": ("CreateVideo", {"images": ["8", 0]})},
    ],
)
def test_with_another_use_the_decode_is_swapped_alone(more: dict):
    after, changes = swapped(a_video(**more))
    assert outcomes(changes) == [(("8",), "AsyncVAEDecodeVideo")]
    assert after == {**a_video(**more), "8": {**a_video()["8"], "class_type": "AsyncVAEDecodeVideo"}}, (
        "only the class changes"
    )


def test_frames_are_followed_through_other_nodes_but_not_into_latents():
    through = prompt(
        n57_8=("VAEDecode", {"samples": ["3", 0], "vae": ["2", 0]}),
        n11=("SomebodysUpscale", {"frames": ["57:8", 0]}),
        n12=("VHS_VideoCombine", {"images": ["11", 0]}),
    )
    assert outcomes(swapped(through | a_video())[1])[0] == (("57:8",), "AsyncVAEDecodeVideo")
    start_image = a_video(
        n20=("VAEDecode", {"samples": ["3", 0], "vae": ["2", 0]}),
        n4=("WanImageToVideo", {"start_image": ["20", 0], "latent_image": None}),
    )
    assert outcomes(swapped(start_image)[1])[1] == (("20",), "its frames do not go into a video")


TILES = {"tile_size": 768, "overlap": 64, "temporal_size": 4096, "temporal_overlap": 4}


def in_tiles(file: str, **nodes: tuple) -> dict:
    """A prompt whose decode in tiles gets its VAE from a file."""
    before = a_video("VAEDecodeTiled")
    before["2"]["inputs"]["vae_name"] = file
    before["8"]["inputs"].update(TILES)
    return before | prompt(**nodes)


def test_tiles_whose_vae_cannot_be_told_stay():
    before = in_tiles("mine.safetensors", n11=("PreviewImage", {"images": ["8", 0]}))
    after, [change] = swapped(before)
    assert after["8"] == {**before["8"], "class_type": "AsyncVAEDecodeTiled"} and change.won == "unknown"


def test_tiles_go_when_that_is_asked_for():
    before = a_video("VAEDecodeTiled", n11=("PreviewImage", {"images": ["8", 0]}))
    after, _ = swapped(before, tiles="without")
    assert after["8"]["inputs"] == {"samples": ["3", 0], "vae": ["2", 0]}
    before["8"]["inputs"]["tile_size"] = ["5", 0]
    assert swapped(before, tiles="without")[1][0].reason == "its tile settings are connected to something"


def test_tiles_go_where_they_save_no_memory():
    after, [change] = swapped(in_tiles("ltx-2.3-22b-dev-fp8.safetensors"))
    assert change.after == ("AsyncVAEDecodeToVideo",) and (change.won, change.vae) == ("without_tiles", "LTX")
    assert not TILES.keys() & after["9"]["inputs"].keys()


def test_tiles_stay_where_they_save_memory():
    after, [change] = swapped(in_tiles("hunyuan_video_vae_bf16.safetensors"))
    assert change.after == ("AsyncVAEDecodeTiledToVideo",) and change.won == "side_by_side"
    assert after["9"]["inputs"].items() >= TILES.items()
    after["9"]["inputs"].update(tile_size=256, fps=30)
    restored, _ = swap(after, reverse=True)
    assert restored["8"]["inputs"]["tile_size"] == 256 and restored["9"]["inputs"]["fps"] == 30
    assert not TILES.keys() & restored["9"]["inputs"].keys()


def test_what_wins_nothing_is_left_alone_unless_asked_for():
    before = in_tiles("seedvr2_ema_vae_fp16.safetensors")
    after, [change] = swapped(before)
    assert after == before and change.reason == 'nothing would be won with the VAE of "SeedVR2" in these tiles'
    assert swapped(before, everything=True)[1][0].won == "nothing"


def test_a_vae_is_followed_through_nodes_that_hand_it_on():
    before = in_tiles("", n2=("PatchVAE", {"vae": ["20", 0]}), n20=("VAELoader", {"vae_name": ["21", 0]}))
    before |= prompt(n21=("PrimitiveString", {"value": "wan_2.1_vae.safetensors"}))
    assert swapped(before)[1][0].vae == "Wan 2.1"


def test_a_create_video_of_a_newer_comfyui():
    settings = {"bit_depth": "auto", "color_space": "sRGB", "codec": "none"}
    before = a_video()
    before["9"]["inputs"].update(settings)
    after, [change] = swapped(before)
    assert change.after == ("AsyncVAEDecodeToVideo",)
    assert after["9"]["inputs"]["bit_depth"] == 8 and "codec" not in after["9"]["inputs"]
    before["9"]["inputs"]["color_space"] = "HDR10"
    assert swapped(before)[1][0].after == ("AsyncVAEDecodeVideo",)


def test_titles_follow_unless_they_are_the_users():
    before = a_video(n11=("PreviewImage", {"images": ["8", 0]}))
    before["8"]["_meta"] = {"title": "VAE Decode"}
    assert swapped(before)[0]["8"]["_meta"] == {"title": "Async VAE Decode (Video)"}
    before["8"]["_meta"] = {"title": "Mine"}
    assert swapped(before)[0]["8"]["_meta"] == {"title": "Mine"}
    pair = a_video()
    pair["9"]["_meta"] = {"title": "Create Video"}
    assert swapped(pair)[0]["9"]["_meta"]["title"] == "Async VAE Decode to Video"


def test_what_was_changed_since_stays_changed():
    after, _ = swap(a_video())
    after["9"]["inputs"]["fps"] = 24
    after["9"]["inputs"]["samples"] = ["5", 0]
    after["8"] = {"class_type": "Somebodys", "inputs": {}}
    restored, _ = swap(after, reverse=True)
    assert restored["9"]["inputs"]["fps"] == 24
    assert restored["9"]["inputs"]["images"] == ["11", 0], "the id 8 is taken by now"
    assert restored["11"]["inputs"] == {"samples": ["5", 0], "vae": ["2", 0]}


def test_nodes_that_never_were_stock_ones_become_stock_ones():
    before = prompt(
        n1=("AsyncVAEDecodeToVideo", {"samples": ["3", 0], "vae": ["2", 0], "fps": 16, "ours": "only"}),
        n7=("AsyncVAEDecodeVideo", {"samples": ["3", 0], "vae": ["2", 0], "ours": "only"}),
        n3=("KSampler", {}),
        n2=("VAELoader", {}),
    )
    restored, changes = swap(before, reverse=True)
    assert outcomes(changes) == [(("1",), "VAEDecode+CreateVideo"), (("7",), "VAEDecode")]
    assert restored["1"] == {"class_type": "CreateVideo", "inputs": {"images": ["8", 0], "fps": 16}}
    assert (
        restored["7"] == restored["8"] == {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["2", 0]}}
    )


COMBINE = {
    "images": ["8", 0],
    "audio": ["5", 0],
    "frame_rate": 16,
    "loop_count": 1,
    "filename_prefix": "shots/a",
    "format": "video/h264-mp4",
    "pix_fmt": "yuv420p10le",
    "crf": 19,
    "save_metadata": True,
    "trim_to_audio": False,
    "pingpong": False,
    "save_output": False,
}


def a_combined_video(more: dict | None = None, **changed: object) -> dict:
    nodes = a_video() | prompt(n9=("VHS_VideoCombine", {**COMBINE, **changed}))
    del nodes["10"]
    return nodes | (more or {})


def test_a_decode_and_its_saver_are_streamed():
    after, changes = swapped(a_combined_video())
    assert outcomes(changes) == [(("8", "9"), "AsyncVAEDecodeToVideo+SaveVideoStreaming")]
    assert after["8"]["inputs"] == {"samples": ["3", 0], "vae": ["2", 0], "fps": 16}
    assert after["9"]["inputs"] == {
        "video": ["8", 0],
        "audio": ["5", 0],
        "filename_prefix": "shots/a",
        "format": "mp4 (h264)",
        "chroma": "4:2:0",
        "bit_depth": "10",
        "crf": 19,
        "repeat": 2,
        "ping_pong": False,
        "save_output": False,
    }


def test_a_saver_that_stays_says_why():
    before = a_combined_video(format="video/nvenc_h264-mp4", bitrate=10)
    after, changes = swapped(before)
    assert outcomes(changes) == [
        (("8",), "AsyncVAEDecodeVideo"),
        (("9",), 'Save Video (Streaming) has nothing that matches its "format: video/nvenc_h264-mp4"'),
    ]
    assert after["9"] == before["9"]
    for changed, told in (({"meta_batch": ["5", 0]}, "meta_batch"), ({"frame_rate": ["5", 0]}, "frame_rate")):
        assert told in swapped(a_combined_video(**changed))[1][1].reason
    used = a_combined_video(prompt(n11=("SomebodysUpload", {"files": ["9", 0]})))
    assert swapped(used)[1][1].reason.startswith('its output "Filenames" is used')


def test_a_saver_with_a_link_that_ours_has_no_input_for_stays():
    for name in ("trim_to_audio", "pix_fmt", "loop_count", "crf"):
        before = a_combined_video(**{name: ["5", 0]})
        after, changes = swapped(before)
        assert outcomes(changes)[0] == (("8",), "AsyncVAEDecodeVideo")
        assert f'input "{name}"' in changes[1].reason and after["9"] == before["9"]
    webp = {"images": ["8", 0], "filename_prefix": "a", "fps": 6.0, "lossless": ["5", 0], "quality": 80}
    more = prompt(n11=("SaveAnimatedWEBP", webp), n12=("SaveVideo", {"video": ["9", 0], "codec": ["5", 0]}))
    before = a_video() | more
    assert swapped(before, savers=True)[0].items() >= more.items()


def test_other_savers_are_swapped_when_asked_for():
    more = prompt(
        n11=("PreviewImage", {"images": ["8", 0]}),
        n12=("SaveVideo", {"video": ["13", 0], "filename_prefix": "a", "format": "auto", "codec": "auto"}),
        n13=("SomebodysVideo", {}),
        n14=("SaveWEBM", {"images": ["8", 0], "filename_prefix": "a", "codec": "av1", "fps": ["5", 0], "crf": 30}),
        n15=("SomebodysPlayer", {"video": ["12", 0]}),
    )
    before = a_combined_video(more)
    assert outcomes(swapped(before)[1]) == [(("8",), "AsyncVAEDecodeVideo")]
    after, changes = swapped(before, savers=True)
    assert outcomes(changes)[1:] == [((id,), "SaveVideoStreaming") for id in ("9", "12", "14")]
    assert after["9"]["inputs"]["images"] == ["8", 0] and after["9"]["inputs"]["fps"] == 16
    assert after["12"]["inputs"] == {
        "video": ["13", 0],
        "filename_prefix": "a",
        "format": "mp4 (h264)",
        "quality": "medium",
        "crf": -1,
    }
    assert after["14"]["inputs"]["fps"] == ["5", 0], "a link stays one"


def test_what_was_changed_since_in_a_saver_stays_changed():
    after, _ = swap(a_combined_video())
    after["9"]["inputs"].update(filename_prefix="shots/b", crf=12)
    after["8"]["inputs"].update(fps=["5", 1], samples=["4", 0])
    del after["9"]["inputs"]["audio"]
    restored, changes = swap(after, reverse=True)
    assert outcomes(changes) == [(("8", "9"), "VAEDecode+VHS_VideoCombine")]
    now = {**COMBINE, "filename_prefix": "shots/b", "crf": 12, "frame_rate": ["5", 1]}
    assert restored["9"]["inputs"] == {name: value for name, value in now.items() if name != "audio"}
    assert restored["8"]["inputs"]["samples"] == ["4", 0]


@pytest.mark.parametrize(
    "more, decode",
    [
        # Its video is used by another saver too; its last frame is used.
        (prompt(n11=("SaveVideo", {"video": ["8", 0]})), ["VAEDecode+CreateVideo"]),
        (prompt(n11=("PreviewImage", {"images": ["9", 3]})), ["VAEDecode+CreateVideo"]),
        (prompt(n8=("SomebodysVideo", {})), []),
    ],
)
def test_what_is_connected_otherwise_since_stays_one_of_ours(more: dict, decode: list[str]):
    after, _ = swap(a_combined_video())
    restored, changes = swap(after | more, reverse=True)
    told = sorted(told for _, told in outcomes(changes))
    assert told == [*decode, "it is connected otherwise than when it was swapped"]
    assert restored["9"]["class_type"] == "SaveVideoStreaming"
    for node in restored.values():
        links = [value for value in node["inputs"].values() if isinstance(value, list) and len(value) == 2]
        assert all(link[0] in restored for link in links if isinstance(link[1], int))


SAVED = {"filename_prefix": "a/b", "video": ["9", 0], "format": "mp4", "codec": "h264"}


def test_a_decode_of_wan_goes_elsewhere_when_asked_for():
    before = a_video(n10=("SaveVideo", SAVED))
    after, changes = swapped(before, elsewhere=True)
    assert outcomes(changes) == [(("8", "9", "10"), "AsyncSaveVideoElsewhere")]
    assert "8" not in after and "9" not in after
    assert after["10"]["inputs"] == {
        "samples": ["3", 0],
        "vae": ["2", 0],
        "audio": ["5", 0],
        "fps": 16,
        "bit_depth": "10",
        "format": "mp4 (h264)",
        "quality": "medium",
        "filename_prefix": "a/b",
    }
    after["10"]["inputs"] |= {"fps": 24, "filename_prefix": "c", "priority": "pro"}
    restored, changes = swap(after, reverse=True)
    assert outcomes(changes) == [(("10",), "VAEDecode+CreateVideo+SaveVideo")]
    assert restored["9"]["inputs"] == {**before["9"]["inputs"], "fps": 24}
    assert restored["10"]["inputs"] == {**SAVED, "filename_prefix": "c"}


@pytest.mark.parametrize(
    "more, reason",
    [
        ({"n10": ("SaveVideo", {**SAVED, "format": "webm"})}, "its video does not go into one saver alone"),
        ({"n2": ("VAELoader", {"vae_name": "ltx-2.5.safetensors"})}, "its VAE is not known to be one"),
        ({"n2": ("VAELoader", {"vae_name": "mine.safetensors"})}, "its VAE is not known to be one"),
    ],
)
def test_what_cannot_go_elsewhere_is_swapped_as_ever(more: dict, reason: str):
    before = a_video(**{"n10": ("SaveVideo", SAVED), **more})
    after, changes = swapped(before, elsewhere=True)
    assert changes[-1].reason.startswith(reason)
    assert after["9"]["class_type"] == "AsyncVAEDecodeToVideo" and after["10"] == before["10"]


def test_one_whose_job_is_used_stays_elsewhere():
    after, _ = swap(a_video(n10=("SaveVideo", SAVED)), elsewhere=True)
    after |= prompt(n20=("AsyncCollectVideo", {"job": ["10", 0]}))
    restored, changes = swap(after, reverse=True)
    assert restored == after and changes[0].reason.startswith("it is connected otherwise")


def test_a_node_without_a_class_passes_through():
    # So the editor exports what it does not know.
    swapped({**a_video(), "30": {"inputs": {"image": ["8", 0]}, "_meta": {"title": ""}}})
    swapped({**a_video(), "2": {"inputs": {"vae_name": "wan_2.1_vae.safetensors"}, "_meta": {"title": ""}}})


@pytest.mark.parametrize(
    "broken", [{"1": "VAEDecode"}, {"1": {"inputs": {}}}, {"1": {"class_type": "VAEDecode", "inputs": []}}]
)
def test_what_is_no_prompt_is_refused(broken: dict):
    with pytest.raises(FormatError, match="no workflow"):
        swap(broken)
