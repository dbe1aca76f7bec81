"""The cases of the swap: what must become of a workflow, in a file and in the browser alike.

A case is {name, do, options, before, after, changes}. `do` is "swap" or "restore"; without `after`, nothing changes.
Those in right_click/ are of the browser alone: what its menu offers, and what its toast says.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator

import pytest
from async_frame_pipeline.automation import FormatError, rules, swap

from .graphs import as_json, flaws, written
from .node import FOLDER, run_node, swap_in_node
from .templates import graphs_of

CASES = [
    case for path in sorted((FOLDER / "cases").glob("*.json")) for case in json.loads(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_in_files(case: dict):
    before = copy.deepcopy(case["before"])
    after, changes = swap(case["before"], reverse=case["do"] == "restore", **case.get("options", {}))
    assert case["before"] == before, "the workflow given was modified"
    assert after == case.get("after", before)
    assert written(after) == written(case.get("after", before)), "the order in the file is another"
    assert as_json(changes) == case["changes"]
    for graph, graph_before in zip(graphs_of(after), graphs_of(before)):
        assert set(flaws(graph)) <= set(flaws(graph_before))
    if case["do"] == "swap":
        assert json.dumps(swap(after, reverse=True)[0]) == json.dumps(before), "the reverse must give the same file"


def test_every_rule_has_a_case():
    cases = json.dumps(CASES)
    names = [
        *rules.DECODES,
        *rules.OURS,
        *rules.SAVERS,
        *rules.VIDEO_NODES,
        *rules.FRAME_TYPES,
        *rules.RELAYS,
        *rules.RELAYS.values(),
    ]
    assert [name for name in names if json.dumps(name) not in cases] == []
    told = " ".join(change["reason"] for case in CASES for change in case["changes"])
    assert [text for text in rules.REASONS.values() if text.replace("%name%", "") not in without_names(told)] == []


def without_names(told: str) -> str:
    return re.sub(r'"[^"]*"', '""', told)


def test_in_the_browsers_code():
    run_node("--test", FOLDER / "cases.test.js")


def test_with_anything_missing_the_browser_makes_the_same_or_the_file_is_refused():
    jobs = [
        {"workflow": damaged, "reverse": True}
        for case in CASES
        if case["do"] == "restore"
        for damaged in with_one_thing_missing(case["before"])
    ]
    compared = 0
    for job, done in zip(jobs, swap_in_node(jobs), strict=True):
        try:
            after, changes = swap(job["workflow"], reverse=True)
        except FormatError:
            continue
        assert "error" not in done, f"{done['error']}: {job['workflow']}"
        assert written(done["after"] or job["workflow"]) == written(after)
        assert done["changes"] == as_json(changes)
        compared += 1
    assert compared > len(jobs) / 2


def with_one_thing_missing(whole: dict) -> Iterator[dict]:
    """Copies of a JSON object, each without one thing that is anywhere in it."""

    def without(part: dict | list) -> Iterator[dict | list]:
        for key, value in list(part.items() if isinstance(part, dict) else enumerate(part)):
            yield (
                {k: v for k, v in part.items() if k != key} if isinstance(part, dict) else part[:key] + part[key + 1 :]
            )
            for less in without(value) if isinstance(value, (dict, list)) else ():
                yield {**part, key: less} if isinstance(part, dict) else [*part[:key], less, *part[key + 1 :]]

    return without(whole)
