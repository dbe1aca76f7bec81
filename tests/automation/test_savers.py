"""What savers are set to, in Save Video (Streaming): every setting that the rules know, on both sides."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import pytest
from async_frame_pipeline.automation import swap
from async_frame_pipeline.automation.rules import OUR_SAVER, SAVERS
from async_frame_pipeline.automation.savers import Settings, rules_of, settings_of
from async_frame_pipeline.pipeline.sinks.encoders.base import SPEEDS
from async_frame_pipeline.pipeline.sinks.formats import FORMATS

from .graphs import as_json, workflow, written
from .node import swap_in_node

BOTH = [(kind, form) for kind, rule in SAVERS.items() for form in rule["formats"]]


def some_values(kind: str, form: str, chance: random.Random) -> dict:
    """A saver's settings, most of them such as it offers."""
    by = SAVERS[kind]["by"]
    values = {by: form} if by else {}
    for name, rule in rules_of(kind, values).items():
        if "is" in rule:
            texts = {"true": True, "false": False, "0": 0}
            values[name] = chance.choice(
                [texts.get(text, text) for text in rule["is"]] + ["another"][: chance.random() < 0.1]
            )
        elif "within" in rule:
            low, high = rule["within"]
            values[name] = chance.choice([low, high, 24, 24.5, rule["default"], high + 1])
        elif "add" in rule or rule.get("to") == "repeat":
            values[name] = chance.choice([0, 1, 7])
        elif "from" in rule:
            values[name] = chance.choice([0, 62, 63, 80, 100])
        else:
            values[name] = {"STRING": "a/b", "BOOLEAN": chance.random() < 0.5}[rule["link"]]
    return values


@pytest.mark.parametrize("kind, form", BOTH)
def test_what_it_is_set_to_can_be_saved(kind: str, form: str):
    """Whatever the rules make of a saver's settings is among what our formats have."""
    chance, done = random.Random(f"{kind} {form}"), 0
    for _ in range(60):
        settings = settings_of(kind, some_values(kind, form, chance), {})
        if isinstance(settings, str):
            continue
        done += 1
        assert settings.values.keys() <= OUR_SAVER["widgets"].keys()
        values = {**OUR_SAVER["widgets"], **settings.values}
        file_format = FORMATS[values["format"]]
        depth = None if values["bit_depth"] == "auto" else int(values["bit_depth"])
        file_format.check(values["quality"], None if values["chroma"] == "auto" else values["chroma"], depth)
        assert values["speed"] in SPEEDS and 0 <= values["repeat"] <= 1000
        assert values["audio_length"] in ("video", "shortest")
        if values["crf"] != -1:
            assert file_format.lossy and 0 <= values["crf"] <= 63
        most = file_format.container.most_fps
        assert kind == "SaveVideo" or 0 < values["fps"] <= (most or math.inf)
        assert not (values["repeat"] > 1 and file_format.is_folder)
    assert done >= 5, "most of what a saver offers has a match"


@pytest.mark.parametrize("tail", [False, True])
def test_both_sides_make_the_same_of_every_setting(tail: bool):
    """In workflows; with the decode that feeds it, and without."""
    jobs = []
    for kind, form in BOTH:
        for seed in range(8):
            values = some_values(kind, form, random.Random(f"{kind} {form} {seed}"))
            saved = values if kind == "VHS_VideoCombine" else [values[name] for name in SAVERS[kind]["widgets"]]
            nodes = {1: "SampleVideoLatent", 8: "VAEDecode", 9: kind}
            links = "1>8.samples 1.1>8.vae"
            if kind != "SaveVideo":
                links += " 8>9.images" + (" 8>10.images" if tail else "")
                nodes |= {10: "PreviewImage"} if tail else {}
            jobs.append({"workflow": workflow(nodes, links, n9={"widgets_values": saved}), "savers": True})
    there = swap_in_node(jobs)
    back = swap_in_node(
        [{"workflow": done["after"] or job["workflow"], "reverse": True} for job, done in zip(jobs, there)]
    )
    streamed = 0
    for job, done, restored in zip(jobs, there, back, strict=True):
        after, changes = swap(job["workflow"], savers=True)
        assert written(done["after"] or job["workflow"]) == written(after)
        assert done["changes"] == as_json(changes)
        assert json.dumps(swap(after, reverse=True)[0]) == json.dumps(job["workflow"])
        assert written(restored["after"] or done["after"] or job["workflow"]) == written(job["workflow"])
        streamed += any(len(change.after) == 2 for change in changes)
    assert streamed == 0 if tail else streamed > len(jobs) / 3


def test_both_sides_make_the_same_of_every_link():
    """Of types that are known, as in workflows, and of those that are not, as in prompts."""
    jobs = []
    for kind, form in BOTH:
        for name in [*rules_of(kind, {SAVERS[kind]["by"]: form}), *SAVERS[kind]["inputs"]]:
            for type in (None, "*", "FLOAT", "INT", "STRING", "BOOLEAN", "AUDIO"):
                chance = random.Random(f"{kind} {form} {name} {type}")
                values = some_values(kind, form, chance)
                if chance.random() < 0.5:
                    values.pop(name, None)  # in a prompt the link is in its place
                jobs.append({"settings": [kind, values, {SAVERS[kind]["frames"]: None, name: type}]})
    taken = 0
    for job, there in zip(jobs, swap_in_node(jobs), strict=True):
        here = settings_of(*job["settings"])
        assert there == ({"why": here} if isinstance(here, str) else dataclasses.asdict(here)), job
        taken += isinstance(here, Settings)
    assert len(jobs) / 10 < taken < len(jobs) / 2


@pytest.mark.parametrize(
    "values, links, told",
    [
        ({"format": "video/gifski", "quality": 90}, {}, '"format: video/gifski"'),
        ({"format": "image/gif", "frame_rate": 60}, {}, '"frame_rate: 60"'),
        ({"format": "image/gif", "frame_rate": "24"}, {}, '"frame_rate: 24"'),
        ({"format": "image/gif", "mine": True}, {}, '"mine: true"'),
        ({"format": "video/8bit-png", "loop_count": 3}, {}, '"loop_count: 3"'),
        ({}, {"format": "STRING"}, 'input "format"'),
        ({"format": "image/gif"}, {"meta_batch": "VHS_BatchManager"}, 'input "meta_batch"'),
        ({"format": "image/gif"}, {"vae": None}, 'input "vae"'),
        ({"format": "image/gif"}, {"images": "LATENT"}, 'input "images"'),
        ({"format": "image/gif"}, {"images": "IMAGE", "audio": "VHS_AUDIO"}, 'input "audio"'),
        ({"format": "image/gif"}, {"frame_rate": "INT"}, 'input "frame_rate"'),
        ({"format": "image/gif"}, {"frame_rate": None}, 'input "frame_rate"'),
        ({"format": "image/gif"}, {"loop_count": "INT"}, 'input "loop_count"'),
        ({"format": "image/gif"}, {"loop_count": None}, 'input "loop_count"'),
        ({"format": "video/h264-mp4"}, {"trim_to_audio": None}, 'input "trim_to_audio"'),
    ],
)
def test_why_it_is_left_alone(values: dict, links: dict, told: str):
    settings = settings_of("VHS_VideoCombine", values, links)
    assert isinstance(settings, str) and told in settings


def test_what_is_linked_stays_linked():
    links = {"images": "IMAGE", "audio": "AUDIO", "frame_rate": "FLOAT", "filename_prefix": "STRING"}
    settings = settings_of("VHS_VideoCombine", {"format": "image/gif", "frame_rate": 8}, links)
    assert isinstance(settings, Settings)
    assert settings.links == {"frame_rate": "fps", "filename_prefix": "filename_prefix"}
