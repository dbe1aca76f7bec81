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


def test_tiles():
    before = a_video("VAEDecodeTiled", n11=("PreviewImage", {"images": ["8", 0]}))
    after, changes = swapped(before)
    assert after == before and "tiles" in changes[0].reason
    after, _ = swapped(before, tiled=True)
    assert after["8"]["inputs"] == {"samples": ["3", 0], "vae": ["2", 0]}
    swapped(a_video("VAEDecodeTiled"), tiled=True)
    before["8"]["inputs"]["tile_size"] = ["5", 0]
    assert swapped(before, tiled=True)[1][0].reason == "its tile settings are connected to something"


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


def test_a_node_without_a_class_passes_through():
    # So the editor exports what it does not know.
    swapped({**a_video(), "30": {"inputs": {"image": ["8", 0]}, "_meta": {"title": ""}}})


@pytest.mark.parametrize(
    "broken", [{"1": "VAEDecode"}, {"1": {"inputs": {}}}, {"1": {"class_type": "VAEDecode", "inputs": []}}]
)
def test_what_is_no_prompt_is_refused(broken: dict):
    with pytest.raises(FormatError, match="no workflow"):
        swap(broken)
