"""What of Save Video (Streaming) is refused when a prompt is queued: each fault once, at the input it is of."""

import asyncio
import copy

import pytest

from . import in_comfyui  # noqa: F401

import execution
from async_frame_pipeline.nodes.comfyui import queued
from async_frame_pipeline.nodes.save_video import SaveVideoStreaming
from async_frame_pipeline.pipeline.sinks import formats

import nodes as core_nodes


class Stand:
    """Gives whatever an input wants, and takes it."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}, "optional": {"images": ("IMAGE",)}}

    RETURN_TYPES = ("*", "VIDEO", "IMAGE")
    FUNCTION = "run"
    OUTPUT_NODE = True


@pytest.fixture(autouse=True)
def known_nodes(monkeypatch):
    for name, node in {"SaveVideoStreaming": SaveVideoStreaming, "Stand": Stand}.items():
        monkeypatch.setitem(core_nodes.NODE_CLASS_MAPPINGS, name, node)


def errors(prompt: dict) -> list[tuple[str, str, str]]:
    """(node, input, what is said) of every error that ComfyUI's own check lists, when this is posted."""

    async def post():
        # As the server does, in one task of its own for each request.
        posted = queued.see({"prompt": copy.deepcopy(prompt)})
        return await execution.validate_prompt("id", posted["prompt"], None)

    node_errors = asyncio.run(post())[3]
    return [
        (node, error["extra_info"]["input_name"], error["details"].removeprefix(error["extra_info"]["input_name"]))
        for node, found in node_errors.items()
        for error in found["errors"]
    ]


def saver(**inputs: object) -> dict:
    return {"class_type": "SaveVideoStreaming", "inputs": {"video": ["stand", 1], "filename_prefix": "x"} | inputs}


def prompt_of(*savers: dict, **more: dict) -> dict:
    stand = {"class_type": "Stand", "inputs": {}}
    return {"stand": stand} | {f"saver {i}": each for i, each in enumerate(savers)} | more


ALL = {
    "format": "mp4 (h264)",
    "quality": "high",
    "speed": "medium",
    "bit_depth": "auto",
    "chroma": "auto",
    "color": "BT.709",
    "dither": False,
    "alpha": True,
    "audio_codec": "auto",
    "audio_length": "video",
    "ping_pong": False,
    "repeat": 0,
    "keep_unfinished": False,
    "preview": False,
    "keep_frames": False,
    "fps": 24.0,
    "crf": -1.0,
    "save_output": True,
}
FAULTS = [
    ({"filename_prefix": "../x"}, "filename_prefix", "does not name a place inside the output folder"),
    ({"filename_prefix": "/x"}, "filename_prefix", "it is an absolute path"),
    ({"format": "avi"}, "format", "not in ['mp4 (h264)'"),
    ({"quality": "best"}, "quality", "not in ['very high'"),
    ({"speed": "warp"}, "speed", "not in ['slow'"),
    ({"bit_depth": "9"}, "bit_depth", "not in ['auto'"),
    ({"repeat": 1001}, "repeat", ""),
    ({"repeat": "often"}, "repeat", "often"),
    ({"crf": 64}, "crf", ""),
    ({"fps": 0}, "fps", ""),
    ({"format": "gif", "quality": "lossless"}, "quality", "gif has the qualities very high, high, medium, low; got"),
    ({"format": "webm (vp9)", "bit_depth": "10"}, "bit_depth", "webm (vp9) at 4:2:0 has the bit depths 8; got 10"),
    ({"format": "mp4 (av1)", "chroma": "4:4:4"}, "chroma", "mp4 (av1) has the chroma 4:2:0; got 4:4:4"),
    ({"audio_codec": "pcm"}, "audio_codec", "mp4 (h264) can have sound as aac, opus, flac; got pcm"),
    ({"format": "png sequence", "repeat": 2}, "repeat", "png sequence cannot repeat"),
    ({"crf": 52}, "crf", "mp4 (h264) has CRFs from 0 to 51, got 52"),
    ({"format": "gif", "crf": 20}, "crf", "gif has no CRF"),
    ({"quality": "lossless", "crf": 20}, "crf", "lossless has no CRF"),
    ({"images": ["stand", 2]}, "images", "a video and images are connected"),
]


@pytest.mark.parametrize("given", ["from the editor", "as little as can be"])
@pytest.mark.parametrize("fault, blamed, said", FAULTS, ids=str)
def test_one_fault_is_one_error_at_its_input(fault, blamed, said, given):
    [(node, name, details)] = errors(prompt_of(saver(**(ALL if given == "from the editor" else {}) | fault)))
    assert (node, name) == ("saver 0", blamed) and said in details


def test_nothing_is_refused_that_can_be_saved():
    assert errors(prompt_of(saver(), saver(**ALL), saver(format="png sequence", bit_depth="16"))) == []


def test_without_a_video_the_input_that_is_there_is_to_blame():
    alone = saver()
    del alone["inputs"]["video"]
    assert errors(prompt_of(alone)) == [
        ("saver 0", "filename_prefix", " - there is nothing to save: connect a video, or images")
    ]
    images = saver(images=["stand", 2])
    del images["inputs"]["video"]
    assert errors(prompt_of(images)) == []


def test_what_another_node_gives_is_not_known_yet():
    """The format may be one that has all of this."""
    linked = saver(
        **ALL | {"format": ["stand", 0], "chroma": "rgb", "bit_depth": "16", "audio_codec": "pcm", "crf": 20}
    )
    assert errors(prompt_of(linked)) == []
    linked = saver(**ALL | {"format": "gif", "quality": ["stand", 0], "crf": ["stand", 0], "repeat": ["stand", 0]})
    assert errors(prompt_of(linked)) == []


def test_formats_of_other_machines_are_let_through(monkeypatch):
    monkeypatch.setattr(formats, "available_formats", lambda: ("mp4 (h264)", "gif"))
    assert errors(prompt_of(saver(format="mp4 (h265 nvenc)"))) == []
    [(_, blamed, details)] = errors(prompt_of(saver(format="mp4 (h265 nvenc)", chroma="4:4:4")))
    assert blamed == "chroma" and "mp4 (h265 nvenc) has the chroma 4:2:0" in details
    [(_, blamed, details)] = errors(prompt_of(saver(format="avi")))
    assert blamed == "format" and "not in ['mp4 (h264)', 'gif']" in details


def test_each_saver_has_its_own_fault():
    found = sorted(errors(prompt_of(saver(), saver(filename_prefix="../x"), saver(filename_prefix="../y"))))
    assert [(node, blamed) for node, blamed, _ in found] == [
        ("saver 1", "filename_prefix"),
        ("saver 2", "filename_prefix"),
    ]
    assert "../x" in found[0][2] and "../y" in found[1][2]


@pytest.mark.parametrize(
    "fault, blamed",
    [
        ({"format": "gif", "quality": "lossless"}, "quality"),
        ({"format": "mp4 (av1)", "chroma": "4:4:4"}, "chroma"),
        ({"format": "webm (vp9)", "bit_depth": "10"}, "bit_depth"),
        ({"quality": "lossless", "crf": 20}, "crf"),
        ({"audio_codec": "pcm"}, "audio_codec"),
        ({"format": "png sequence", "repeat": 2}, "repeat"),
    ],
    ids=str,
)
def test_the_fault_of_one_hides_none_of_another(fault, blamed):
    """ComfyUI leaves an input that the check names to the check, in every saver of the prompt."""
    wrong = {"quality": "best", "chroma": "5", "bit_depth": "9", "crf": 70, "audio_codec": "mp3", "repeat": 1001}
    linked = saver(**{blamed: ["stand", 0]})
    found = errors(prompt_of(saver(**fault), saver(**{blamed: wrong[blamed]}), saver(**ALL), linked, saver()))
    assert sorted((node, name) for node, name, _ in found) == [("saver 0", blamed), ("saver 1", blamed)]
    assert f"got {wrong[blamed]}" in {node: details for node, _, details in found}["saver 1"]


def test_nodes_that_lead_nowhere_may_be_anything():
    """ComfyUI looks at no more of them than their type. The fault shows that it came to looking at all."""
    for inputs in ({}, {"inputs": ["saver 0", 1]}, {"inputs": None}):
        lost = {"class_type": "EmptyImage", **inputs}
        found = errors(prompt_of(saver(), saver(**ALL), saver(quality="best"), lost=lost))
        assert [(node, blamed) for node, blamed, _ in found] == [("saver 2", "quality")]


def test_frames_that_are_used_and_not_kept_are_refused_before_the_work():
    def used_by(node: str, index: int) -> dict:
        return {"user": {"class_type": "Stand", "inputs": {"images": [node, index]}}}

    [(node, blamed, details)] = errors(prompt_of(saver(**ALL), **used_by("saver 0", 1)))
    assert (node, blamed) == ("saver 0", "keep_frames") and "switch on keep_frames" in details
    assert errors(prompt_of(saver(keep_frames=True), **used_by("saver 0", 1))) == []
    assert errors(prompt_of(saver(), **used_by("saver 0", 1))) == [], "using them switches it on"
    assert errors(prompt_of(saver(keep_frames=["stand", 0]), **used_by("saver 0", 1))) == [], "not known yet"
    assert errors(prompt_of(saver(**ALL), **used_by("saver 0", 3))) == [], "the last frame is always there"


def test_where_the_prompt_is_not_known_nothing_is_refused():
    """ComfyUI used as a library: it is looked at in `execute`."""
    result = asyncio.run(execution.validate_prompt("id", prompt_of(saver(filename_prefix="../x")), None))
    assert result[0], result
