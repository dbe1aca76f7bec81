"""Sentences that can be said in other languages."""

import ast
import json
from pathlib import Path

from async_frame_pipeline.pipeline.text import Text, parts

from ..automation.node import run_node

REPO = Path(__file__).resolve().parent.parent.parent


def templates() -> set[str]:
    """Of every Text in the sources whose template stands there as it is."""
    found = set()
    for path in [*(REPO / "nodes").rglob("*.py"), *(REPO / "pipeline").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Text":
                found.update(each.value for each in node.args[:1] if isinstance(each, ast.Constant))
    return found


def test_it_reads_as_english_and_remembers_its_parts():
    reason = Text("there is no fast decoder for %device%", device="'xpu'")
    note = Text("the fast decoder cannot be used: %reason%", reason=reason)
    assert note == "the fast decoder cannot be used: there is no fast decoder for 'xpu'"
    assert json.loads(json.dumps(parts(note))) == {
        "text": "the fast decoder cannot be used: %reason%",
        "values": {
            "reason": {"text": "there is no fast decoder for %device%", "values": {"device": {"text": "'xpu'"}}}
        },
    }
    assert parts("an error") == {"text": "an error"}


def test_every_reason_can_be_translated():
    texts = json.loads((REPO / "locales" / "en" / "main.json").read_text(encoding="utf-8"))["asyncFramePipeline"]
    assert len(templates()) > 20 and templates() <= set(texts)


def test_in_the_browsers_code():
    run_node("--test", *(REPO / "tests" / "frontend" / f"{name}.test.js" for name in ("language", "job_list")))
