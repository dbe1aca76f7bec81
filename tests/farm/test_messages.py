"""Jobs and records as they travel: what is refused before anything is done with it."""

import copy
import json

import pytest

from ...farm.messages import MOST_BYTES, InvalidJob, Job, Record

GOOD = {
    "v": 1,
    "id": "0" * 32,
    "user": "anna",
    "priority": "pro",
    "need_mb": 5000,
    "created": 1.5,
    "vae": {"sha256": "a" * 64, "bytes": 1000, "family": "Wan 2.1", "verdict": 0.001},
    "latent": {"sha256": "b" * 64, "bytes": 16 * 21 * 90 * 160 * 2 + 200},
    "params": {"shape": [1, 16, 21, 90, 160], "dtype": "bfloat16", "fps": "24000/1001"},
    "client": {"id": "x", "prompt_id": "y", "node_id": "z"},
    "name_prefix": "video/ComfyUI",
}
HUGE = 10**30
REFUSED = [
    ("v", 2),
    ("v", True),
    ("v", None),
    ("id", "0" * 31),
    ("id", "../" + "0" * 29),
    ("id", 7),
    ("user", "a.b"),
    ("user", ">"),
    ("user", ""),
    ("user", "a" * 33),
    ("priority", "vip"),
    ("priority", ["pro"]),
    ("need_mb", 0),
    ("need_mb", HUGE),
    ("need_mb", 1.5),
    ("need_mb", True),
    ("created", float("nan")),
    ("deadline", "soon"),
    ("vae", None),
    ("vae", "a" * 64),
    ("vae.sha256", "A" * 64),
    ("vae.sha256", "/etc/passwd"),
    ("vae.bytes", HUGE),
    ("vae.bytes", -1),
    ("vae.family", "Wan\n2.1"),
    ("vae.verdict", float("inf")),
    ("latent.bytes", 10),
    ("latent.bytes", 1 << 40),
    ("params.shape", [1, 16, 21, 90]),
    ("params.shape", [2, 16, 21, 90, 160]),
    ("params.shape", [1, 16, 25_001, 90, 160]),
    ("params.shape", [1, 16, 0, 90, 160]),
    ("params.shape", [1, 16, 21, 8192, 8192]),
    ("params.shape", [1, 16, 21, 90, HUGE]),
    ("params.shape", [1, 16, 21, "90", 160]),
    ("params.shape", "11111"),
    ("params.dtype", "float64"),
    ("params.dtype", {}),
    ("params.do_scaling", 1),
    ("params.fps", "0"),
    ("params.fps", "1/0"),
    ("params.fps", "-1"),
    ("params.fps", "9" * 10),
    ("params.fps", 24),
    ("params.output_type", "exe"),
    ("params.format", "webm (vp9)"),
    ("params.format", "mp4 (../..)/x"),
    ("params.quality", ""),
    ("params.bit_depth", 9),
    ("params.decoder", "pickle"),
    ("client.id", "a" * 201),
    ("client.node_id", "\x1b[31m"),
    ("name_prefix", "../up"),
    ("name_prefix", "/etc/x"),
    ("name_prefix", "a/../b"),
    ("name_prefix", "a\\..\\b"),
    ("name_prefix", "C:x"),
    ("name_prefix", "a\0b"),
    ("name_prefix", ""),
]


def with_value(name: str, value: object) -> dict:
    values = copy.deepcopy(GOOD)
    *parents, last = name.split(".")
    place = values
    for parent in parents:
        place = place[parent]
    place[last] = value
    return values


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=lambda value: str(value)[:20])
def test_refused(name, value):
    with pytest.raises(InvalidJob):
        Job.of(with_value(name, value))


@pytest.mark.parametrize("missing", ["v", "id", "vae", "latent", "params"])
def test_nothing_that_is_needed_may_be_missing(missing):
    values = {key: value for key, value in GOOD.items() if key != missing}
    with pytest.raises(InvalidJob):
        Job.of(values)


def test_what_this_version_does_not_know_is_left_out():
    assert Job.of({**GOOD, "colour": "blue", "params": {**GOOD["params"], "more": 1}}) == Job.of(GOOD)


def test_a_record_comes_back_as_it_was():
    record = Record(Job.of(GOOD), state="failed", reason="é", tries=2)
    assert Record.of(record.to_json(), 7) == record
    assert record.subject == "job.m.pro.anna"


RESULT = {
    "name": f"{'0' * 32}.7.1",
    "sha256": "c" * 64,
    "bytes": 5,
    "frames": 1,
    "width": 8,
    "height": 8,
    "seconds": 0.5,
}


@pytest.mark.parametrize(
    "change",
    [
        {"state": "done"},
        {"round": "1"},
        {"attempt": -1},
        {"message": 1 << 63},
        {"memory_class": ">"},
        {"reason": 7},
        {"started": "now"},
        {"result": {**RESULT, "name": "../../etc/passwd"}},
        {"result": {**RESULT, "sha256": ""}},
        {"result": {**RESULT, "frames": HUGE}},
        {"result": "video"},
    ],
    ids=str,
)
def test_a_record_that_was_forged(change):
    good = json.loads(Record(Job.of(GOOD)).to_json())
    assert Record.of(json.dumps({**good, "result": RESULT}).encode())
    with pytest.raises(InvalidJob):
        Record.of(json.dumps({**good, **change}).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"nul", b"\xff", b"[" * 60_000, b" " * (MOST_BYTES + 1), b'{"job": []}', b"{}"]
)
def test_no_record(data):
    with pytest.raises(InvalidJob):
        Record.of(data)


def test_a_reason_that_is_too_long_cannot_be_stored():
    with pytest.raises(InvalidJob):
        Record(Job.of(GOOD), reason="x" * MOST_BYTES).to_json()


def test_it_is_json_that_others_can_read():
    values = json.loads(Record(Job.of(GOOD)).to_json())
    assert values["job"]["params"]["shape"] == [1, 16, 21, 90, 160] and "revision" not in values
