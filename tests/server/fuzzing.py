"""Anything at all, sent to the nodes' inputs through the API: each prompt is answered, and the server goes on.

Only values of inputs are made up; a prompt's own structure is ComfyUI's to check.
"""

from __future__ import annotations

import json
import math
import random
import time
import urllib.error

import host

TEXTS = [
    "",
    " ",
    "x",
    "../x",
    "/etc/x",
    "C:\\x",
    "a/b/c",
    "%date:yyyy-MM-dd%",
    "%1.x%",
    "%width%",
    "a\0b",
    "\n",
    "half\ud800",
    "\u202egpj",
    "日本語",
    "x" * 300,
    "x/" * 600,
    "{}",
    "<img src=x onerror=alert(1)>",
    "$(reboot)",
    "nan",
    "mp4 (h264)",
    "high",
    "auto",
    "exact",
    "fast",
]
NUMBERS = [0, 1, -1, 8, 9, 10, 16, 24, 0.001, -0.0, 1e-300, 1e300, 2**31, 2**63, 10**400, math.nan, math.inf, -math.inf]
OTHERS = [None, True, False, [], {}, [[]], {"a": 1}, ["1"], ["1", 9], ["nobody", 0], ["1", "x"], [None, None], [1, 0]]

# To images and to a video.
DECODES = [("AsyncVAEDecodeVideo", "AsyncVAEDecodeToVideo"), ("AsyncVAEDecodeTiled", "AsyncVAEDecodeTiledToVideo")]


def fuzz(server: host.Server, seconds: float, seed: int, prompts: int | None = None) -> dict[str, int]:
    """Send prompts for a while, or this many.

    Returns:
        How many were "refused" before they ran, "failed" with a message, and "succeeded".
    Raises:
        AssertionError: a prompt was answered with another status than 200 or 400, failed without a message, or was
            not over after a minute. Says with which prompt.
        host.HostError: the server died.
    """
    chance = random.Random(seed)
    definitions = {
        name: node
        for name, node in server.get("/object_info").items()
        if "async-frame-pipeline" in node["python_module"]
    }
    counts = {"refused": 0, "failed": 0, "succeeded": 0}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and prompts != sum(counts.values()):
        prompt = make_prompt(chance, definitions)
        try:
            counts[outcome(server, prompt)] += 1
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{error}\nseed {seed}, prompt:\n{json.dumps(prompt)}") from error
    return counts


def make_prompt(chance: random.Random, definitions: dict) -> dict:
    """Our nodes in a row that works, with a few of the inputs replaced by anything."""
    shape = {
        "batch": chance.choice([1, 1, 1, 2]),
        "channels": 16,
        "latent_frames": chance.choice([1, 2, 3]),
        "height": 2,
        "width": 2,
    }
    images, video = chance.choice(DECODES)
    prompt = {
        "1": {"class_type": "AFPTestLatent", "inputs": {**shape, "seed": chance.randrange(10**6)}},
        "2": {"class_type": "AFPTestVAE", "inputs": {"kind": "wan 2.1", "seed": 1}},
        "3": {"class_type": "AFPTestAudio", "inputs": {"seconds": 0.1}},
        "4": {"class_type": images, "inputs": working(definitions[images])},
        "5": {"class_type": video, "inputs": working(definitions[video])},
        "6": {"class_type": "SaveVideoStreaming", "inputs": working(definitions["SaveVideoStreaming"])},
        "7": {"class_type": "PreviewAny", "inputs": {"source": ["4", 0]}},
        "8": {"class_type": "SampleVideoLatent", "inputs": {}},
    }
    nodes = [node for node in prompt.values() if node["class_type"] in definitions]
    for _ in range(chance.choice([1, 1, 2, 3])):
        node = chance.choice(nodes)
        if chance.random() < 0.05:
            # No link: one to a node that is not there, in an input that no node has, ends ComfyUI 0.30.0's worker.
            node["inputs"][chance.choice(["nobody", "", "self", "cls", "images"])] = chance.choice(TEXTS + NUMBERS)
        elif node["inputs"]:
            name = chance.choice(list(node["inputs"]))
            if chance.random() < 0.1:
                del node["inputs"][name]
            else:
                node["inputs"][name] = given(prompt, anything(chance)) if chance.random() < 0.3 else anything(chance)
    return prompt


def given(prompt: dict, value: object) -> list:
    """A link to a node that gives this value, of which ComfyUI checks nothing."""
    node = str(len(prompt) + 1)
    prompt[node] = {"class_type": "AFPTestAny", "inputs": {"value": json.dumps(value)}}
    return [node, 0]


def working(definition: dict) -> dict:
    """Inputs that work: links to the nodes of `make_prompt`, and defaults."""
    links = {"LATENT": ["1", 0], "VAE": ["2", 0], "AUDIO": ["3", 0], "VIDEO": ["5", 0]}
    inputs = {}
    for group in ("required", "optional"):
        for name, (kind, *options) in definition["input"].get(group, {}).items():
            if isinstance(kind, str) and kind in links:
                inputs[name] = links[kind]
            elif options and "default" in options[0]:
                inputs[name] = options[0]["default"]
    return inputs


def anything(chance: random.Random) -> object:
    return chance.choice(
        chance.choice([TEXTS, NUMBERS, OTHERS, [[str(chance.randrange(1, 9)), chance.choice([0, 0, 1])]]])
    )


def outcome(server: host.Server, prompt: dict) -> str:
    try:
        prompt_id = server.submit(prompt)
    except host.PromptRejected as rejected:
        assert rejected.body.get("error") or rejected.body["node_errors"], "refused without a reason"
        # A part of it may run all the same.
        if "prompt_id" in rejected.body:
            server.wait(rejected.body["prompt_id"], timeout=60)
        return "refused"
    except urllib.error.HTTPError as error:
        raise AssertionError(f"the server answered with status {error.code}") from None
    entry = server.wait(prompt_id, timeout=60)
    for event, message in entry["status"]["messages"]:
        if event == "execution_error":
            assert message["exception_message"].strip(), f"failed without a message: {message['traceback']}"
            return "failed"
    assert entry["status"]["completed"], entry["status"]
    return "succeeded"
