"""The swap in workflow files: what is swapped, what stays as it is, and the way back."""

from __future__ import annotations

import copy
import json

import pytest

from async_frame_pipeline.automation import Change, FormatError, swap

from .graphs import by_id, connections, subgraph, workflow

PAIR = {1: "EmptyLatent", 2: "VAELoader", 8: "VAEDecode", 9: "CreateVideo", 10: "SaveVideo"}
PAIR_LINKS = "1>8.samples 2>8.vae 8>9.images 9>10.video"


def swapped(before: dict, **options: bool) -> tuple[dict, list[Change]]:
    """Swap, and check what must hold of every swap."""
    untouched = copy.deepcopy(before)
    after, changes = swap(before, **options)
    assert before == untouched, "the workflow given was modified"
    restored, _ = swap(after, reverse=True)
    assert json.dumps(restored) == json.dumps(before), "the reverse of a swap must give the same file"
    return after, changes


def outcomes(changes: list[Change]) -> list[tuple[tuple, str]]:
    return [(change.nodes, "+".join(change.after) or change.reason) for change in changes]


# ---------------------------------------------------------------------------- what is swapped


def test_a_decode_and_its_create_video_become_one_node():
    after, changes = swapped(workflow(PAIR, PAIR_LINKS))
    assert outcomes(changes) == [((8, 9), "AsyncVAEDecodeToVideo")]
    assert connections(after) == {"1.0>9.samples", "2.0>9.vae", "9.0>10.video"}
    node = by_id(after)[9]
    assert node["type"] == "AsyncVAEDecodeToVideo"
    assert node["widgets_values"] == [16, 8, "auto", False], "fps and bit depth, and our own"
    assert node["properties"]["cnr_id"] == "async-frame-pipeline", "or nobody could tell which pack is missing"
    assert node["properties"]["Node name for S&R"] == "CreateVideo", "or %CreateVideo.fps% in a file name would break"


def test_audio_and_linked_widgets_come_along():
    before = workflow(
        PAIR | {3: "LoadAudio", 4: "PrimitiveFloat", 5: "PrimitiveInt"},
        PAIR_LINKS + " 3>9.audio 4>9.fps 5>9.bit_depth",
    )
    after, _ = swapped(before)
    assert connections(after) >= {"3.0>9.audio", "4.0>9.fps", "5.0>9.bit_depth"}


def test_a_decode_with_another_use_is_swapped_alone():
    after, changes = swapped(workflow(PAIR | {11: "PreviewImage"}, PAIR_LINKS + " 8>11.images"))
    assert outcomes(changes) == [((8,), "AsyncVAEDecodeVideo")]
    assert connections(after) == {"1.0>8.samples", "2.0>8.vae", "8.0>9.images", "9.0>10.video", "8.0>11.images"}


def test_a_video_with_two_uses_keeps_its_create_video():
    # Each use of a video from Async VAE Decode to Video decodes it again.
    _, changes = swapped(workflow(PAIR | {11: "SaveVideo"}, PAIR_LINKS + " 9>11.video"))
    assert outcomes(changes) == [((8,), "AsyncVAEDecodeVideo")]


@pytest.mark.parametrize(
    "types, links",
    [
        ({3: "ImageScale", 4: "SaveWEBM"}, "8>3.image 3>4.images"),
        ({3: "Reroute", 4: "SaveWEBM"}, "8>3. 3>4.images"),
        ({3: "SomebodysInterpolation", 4: "CreateVideo"}, "8>3.frames 3>4.images"),
        ({3: "ImageToMask", 4: "VHS_VideoCombine"}, "8>3.image 3>4.alpha"),
    ],
)
def test_frames_are_followed_through_other_nodes(types: dict, links: str):
    before = workflow(
        {1: "EmptyLatent", 2: "VAELoader", 8: "VAEDecode"} | types, "1>8.samples 2>8.vae " + links,
        n4={"inputs": "alpha:MASK"} if types[4] == "VHS_VideoCombine" else {},
    )  # fmt: skip
    _, changes = swapped(before)
    assert outcomes(changes) == [((8,), "AsyncVAEDecodeVideo")]


@pytest.mark.parametrize(
    "types, links",
    [
        ({}, ""),
        ({3: "PreviewImage"}, "8>3.images"),
        # A count of frames, or latents made of them, are no frames.
        ({3: "SomebodysInterpolation", 4: "CreateVideo"}, "8>3.frames 3.1>4.bit_depth"),
        ({3: "VAEEncode", 4: "VAEDecodeTiled", 5: "CreateVideo"}, "8>3.pixels 3>4.samples 4>5.images"),
    ],
)
def test_a_decode_that_makes_no_video_is_left_alone(types: dict, links: str):
    before = workflow({1: "EmptyLatent", 2: "VAELoader", 8: "VAEDecode"} | types, "1>8.samples 2>8.vae " + links)
    after, changes = swapped(before)
    assert after == before
    assert outcomes(changes)[0] == ((8,), "its frames do not go into a video")


def test_tiles_are_left_alone_unless_asked_for():
    before = workflow(PAIR | {8: "VAEDecodeTiled"}, PAIR_LINKS, n9={"mode": 4})
    after, changes = swapped(before)
    assert after == before and "tiles" in changes[0].reason
    after, changes = swapped(before, tiled=True)
    assert outcomes(changes) == [((8,), "AsyncVAEDecodeVideo")]
    assert by_id(after)[8]["widgets_values"] == ["auto"]
    assert [slot["name"] for slot in by_id(after)[8]["inputs"]] == ["samples", "vae"]


def test_widgets_that_are_saved_by_name_as_well():
    named = {"fps": 30, "bit_depth": 10}
    pair = workflow(PAIR, PAIR_LINKS, n9={"widgets_values": [30, 10], "widgets_values_named": named})
    after, _ = swapped(pair)
    assert by_id(after)[9]["widgets_values_named"] == {**named, "decoder": "auto", "save_latents_first": False}
    assert by_id(after)[9]["widgets_values"] == [30, 10, "auto", False]
    tiles = {"widgets_values": [256, 32, 16, 4], "widgets_values_named": {"tile_size": 256, "overlap": 32}}
    tiled = workflow(PAIR | {8: "VAEDecodeTiled"}, PAIR_LINKS, n8=tiles, n9={"mode": 4})
    after, _ = swapped(tiled, tiled=True)
    assert by_id(after)[8]["widgets_values_named"] == {"decoder": "auto"}


def test_tiles_that_something_else_sets_are_left_alone():
    before = workflow(PAIR | {8: "VAEDecodeTiled", 5: "PrimitiveInt"}, PAIR_LINKS + " 5>8.tile_size")
    after, changes = swapped(before, tiled=True)
    assert after == before and changes[0].reason == "its tile settings are connected to something"


# ---------------------------------------------------------------------------- subgraphs


def test_a_pair_inside_a_subgraph():
    inner = subgraph(
        "s", {8: "VAEDecode", 9: "CreateVideo"}, "-10>8.samples -10.1>8.vae -10.2>9.fps 8>9.images 9>-20.0",
        inputs="samples:LATENT vae:VAE fps:FLOAT", outputs="VIDEO:VIDEO",
    )  # fmt: skip
    before = workflow(
        {1: "EmptyLatent", 2: "VAELoader", 7: "s", 10: "SaveVideo"}, "1>7.samples 2>7.vae 7>10.video", subgraphs=[inner],
        n7={"inputs": "samples:LATENT vae:VAE [fps:FLOAT]", "outputs": "VIDEO:VIDEO"},
    )  # fmt: skip
    after, changes = swapped(before)
    assert outcomes(changes) == [((8, 9), "AsyncVAEDecodeToVideo")] and changes[0].subgraph == "Subgraph s"
    [inside] = after["definitions"]["subgraphs"]
    assert connections(inside) == {"-10.0>9.samples", "-10.1>9.vae", "-10.2>9.fps", "9.0>-20.0"}
    assert [n for n in after["nodes"]] == before["nodes"], "outside nothing changes"


def test_frames_are_followed_out_of_a_subgraph_and_into_another():
    decoding = subgraph("d", {8: "VAEDecode"}, "-10>8.samples -10.1>8.vae 8>-20.0", outputs="IMAGE:IMAGE", inputs="samples:LATENT vae:VAE")
    saving = subgraph("s", {9: "SaveWEBM"}, "-10.1>9.images", inputs="other:IMAGE frames:IMAGE")
    before = workflow(
        # The node shows the subgraph's inputs in another order.
        {4: "d", 5: "s"}, "4>5.frames", subgraphs=[decoding, saving],
        n4={"inputs": "samples:LATENT vae:VAE", "outputs": "IMAGE:IMAGE"}, n5={"inputs": "frames:IMAGE other:IMAGE"},
    )  # fmt: skip
    _, changes = swapped(before)
    assert outcomes(changes) == [((8,), "AsyncVAEDecodeVideo")]


def test_tiles_shown_on_the_subgraphs_node_are_left_alone():
    inner = subgraph("s", {8: "VAEDecodeTiled", 9: "SaveWEBM"}, "8>9.images")
    before = workflow({7: "s"}, "", subgraphs=[inner], n7={"properties": {"proxyWidgets": [["8", "tile_size"]]}})
    after, changes = swapped(before, tiled=True)
    assert after == before and changes[0].reason == "its tile settings are connected to something"


# ---------------------------------------------------------------------------- what stays


def test_a_decode_keeps_what_the_user_gave_it():
    mine = {
        "title": "My decode", "color": "#432", "bgcolor": "#653", "mode": 4, "flags": {"pinned": True},
        "properties": {"note": 1}, "somebodys": {"field": [1]},
    }  # fmt: skip
    before = workflow(PAIR | {11: "PreviewImage"}, PAIR_LINKS + " 8>11.images", n8=mine)
    after, _ = swapped(before)
    was, now = by_id(before)[8], by_id(after)[8]
    for key in ("pos", "size", "title", "color", "bgcolor", "mode", "flags", "order", "somebodys"):
        assert now[key] == was[key], key
    assert now["properties"]["note"] == 1


def test_a_title_that_is_only_the_nodes_name_goes():
    before = workflow(PAIR, PAIR_LINKS, n9={"title": "Create Video"})
    after, _ = swapped(before)
    assert "title" not in by_id(after)[9]


@pytest.mark.parametrize("mode", [2, 4])
def test_muted_and_bypassed_stay_so(mode: int):
    both, _ = swapped(workflow(PAIR, PAIR_LINKS, n8={"mode": mode}, n9={"mode": mode}))
    assert by_id(both)[9]["mode"] == mode
    # One node could not be both.
    one, changes = swapped(workflow(PAIR, PAIR_LINKS, n8={"mode": mode}))
    assert outcomes(changes) == [((8,), "AsyncVAEDecodeVideo")] and by_id(one)[8]["mode"] == mode


def test_a_link_bent_around_reroute_points_stays():
    for before in (
        workflow(PAIR, PAIR_LINKS) | {"extra": {"linkExtensions": [{"id": 103, "parentId": 1}], "reroutes": [{"id": 1, "linkIds": [103]}]}},
        workflow({7: "s"}, "", subgraphs=[bent_subgraph()]),
    ):  # fmt: skip
        _, changes = swapped(before)
        assert outcomes(changes) == [((8,), "AsyncVAEDecodeVideo")]


def bent_subgraph() -> dict:
    inner = subgraph("s", {8: "VAEDecode", 9: "CreateVideo"}, "8>9.images")
    inner["links"][0]["parentId"] = 1
    return inner | {"reroutes": [{"id": 1, "linkIds": [101]}]}


def test_a_link_that_its_target_does_not_know_of_is_not_made_worse():
    before = workflow(PAIR, PAIR_LINKS)
    before["links"].append([150, 2, 0, 8, 5, "VAE"])
    _, changes = swapped(before)
    assert outcomes(changes) == [((8,), "AsyncVAEDecodeVideo")]


def test_two_pairs_in_one_file_come_back_in_their_order():
    types = {9: "CreateVideo", 8: "VAEDecode", 1: "EmptyLatent", 18: "VAEDecode", 19: "CreateVideo", 2: "VAELoader"}
    swapped(workflow(types, "18>19.images 1>8.samples 1>18.samples 2>18.vae 2>8.vae 8>9.images"))


# ---------------------------------------------------------------------------- and back


def test_what_was_changed_since_stays_changed():
    after, _ = swap(workflow(PAIR | {3: "LoadAudio"}, PAIR_LINKS))
    node = by_id(after)[9]
    node.update(pos=[node["pos"][0] + 100, node["pos"][1] - 50], title="Renamed", mode=2, widgets_values=[24, 10])
    node["inputs"][2]["link"] = 140
    after["links"].append([140, 3, 0, 9, 2, "AUDIO"])
    by_id(after)[3]["outputs"][0]["links"] = [140]

    restored, changes = swap(after, reverse=True)
    assert outcomes(changes) == [((9,), "VAEDecode+CreateVideo")]
    assert connections(restored) == {"1.0>8.samples", "2.0>8.vae", "8.0>9.images", "9.0>10.video", "3.0>9.audio"}
    decode, video = by_id(restored)[8], by_id(restored)[9]
    assert video["title"] == "Renamed" and video["widgets_values"] == [24, 10]
    assert decode["pos"] == [2500, 34.0], "the decode moves along with its Create Video"
    assert decode["mode"] == video["mode"] == 2


def test_widgets_linked_since_stay_linked():
    before = workflow(PAIR | {4: "PrimitiveFloat"}, PAIR_LINKS)
    by_id(before)[9]["inputs"] = by_id(before)[9]["inputs"][:2]  # as templates are saved: without unlinked widgets
    after, _ = swapped(before)
    by_id(after)[9]["inputs"].append({"name": "fps", "type": "FLOAT", "link": 140, "widget": {"name": "fps"}})
    by_id(after)[4]["outputs"][0]["links"] = [140]
    after["links"].append([140, 4, 0, 9, 3, "FLOAT"])
    restored, _ = swap(after, reverse=True)
    assert "4.0>9.fps" in connections(restored)


def test_ids_that_are_taken_by_now_are_not_used_again():
    after, _ = swap(workflow(PAIR, PAIR_LINKS))
    pasted = copy.deepcopy(by_id(after)[9]) | {"id": 51}
    for slot in pasted["inputs"]:
        slot["link"] = None
    pasted["outputs"][0]["links"] = None
    after["nodes"].append(pasted)
    restored, _ = swap(after, reverse=True)
    assert connections(restored) == {"1.0>8.samples", "2.0>8.vae", "8.0>9.images", "9.0>10.video", "52.0>51.images"}
    assert restored["last_node_id"] == 52 and restored["last_link_id"] == 201


def test_nodes_that_never_were_stock_ones_become_stock_ones():
    types = {1: "EmptyLatent", 2: "VAELoader", 3: "LoadAudio", 5: "AsyncVAEDecodeToVideo", 6: "AsyncVAEDecodeVideo", 10: "SaveVideo"}
    inner = subgraph("s", {5: "AsyncVAEDecodeToVideo"}, "")
    before = workflow(types, "1>5.samples 2>5.vae 3>5.audio 5>10.video 1>6.samples 2>6.vae", subgraphs=[inner])
    restored, changes = swap(before, reverse=True)
    assert outcomes(changes) == [((5,), "VAEDecode+CreateVideo"), ((6,), "VAEDecode"), ((5,), "VAEDecode+CreateVideo")]
    assert connections(restored) == {
        "1.0>61.samples", "2.0>61.vae", "61.0>5.images", "3.0>5.audio", "5.0>10.video", "1.0>6.samples", "2.0>6.vae",
    }  # fmt: skip
    video = by_id(restored)[5]
    assert video["type"] == "CreateVideo" and video["widgets_values"] == [24, 10]
    assert [slot["name"] for slot in video["inputs"]] == ["images", "audio", "fps", "bit_depth"]
    decode = by_id(restored)[61]
    assert decode["pos"][0] + decode["size"][0] < video["pos"][0], "left of the Create Video"
    assert connections(restored["definitions"]["subgraphs"][0]) == {"62.0>5.images"}
    again, _ = swap(restored)
    assert connections(again) == connections(before)


# ---------------------------------------------------------------------------- bad input


def test_unknown_nodes_and_fields_pass_through():
    before = workflow(
        PAIR | {20: "Nobody Knows/This", 21: "c0ffee00-0000-4000-8000-000000000000"}, PAIR_LINKS,
        n20={"inputs": ":*", "outputs": ":*", "widgets_values": {"a": None}}, n21={"properties": None},
    )  # fmt: skip
    after, _ = swapped(before)
    assert by_id(after)[20] == by_id(before)[20]


@pytest.mark.parametrize(
    "broken",
    [None, [], "text", 3, {}, {"nodes": []}, {"nodes": {}, "links": []}, {"1": {"class_type": "VAEDecode"}}, {"prompt": {}}],
)
def test_what_is_no_workflow_is_refused(broken: object):
    with pytest.raises(FormatError, match="no workflow"):
        swap(broken)


@pytest.mark.parametrize(
    "nodes, links",
    [
        ([None], []),
        ([{"id": 1}], []),
        ([{"id": 8, "type": "VAEDecode"}], [None]),
        ([{"id": 8, "type": "VAEDecode"}], [[1, 8]]),
        ([{"id": 8, "type": "AsyncVAEDecodeToVideo"}], []),
    ],
)
def test_a_damaged_workflow_is_refused(nodes: list, links: list):
    for reverse in (False, True):
        try:
            after, _ = swap({"nodes": nodes, "links": links}, reverse=reverse)
        except FormatError as error:
            assert "damaged" in str(error)
        else:
            assert after == {"nodes": nodes, "links": links}, "changed, though not understood"
