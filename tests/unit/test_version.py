"""The version has one place, and whatever else must name it agrees."""

import re

from ..conftest import ROOT
from . import in_comfyui  # noqa: F401

# isort: split
from async_frame_pipeline.nodes import log, rescue, version
from async_frame_pipeline.pipeline import VERSION


def found(pattern: str, name: str) -> list[str]:
    return re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_registry_gets_the_same_version():
    assert found(r'^version = "(.+)"$', "pyproject.toml") == [VERSION]


def test_the_changelog_begins_with_it():
    assert found(r"^## (\S+)", "CHANGELOG.md")[0] == VERSION


def test_lines_in_the_log_name_it(caplog):
    caplog.set_level("INFO", "async-frame-pipeline")
    log.say("done")
    assert caplog.messages == [f"async-frame-pipeline {VERSION}: done"]


def test_descriptions_of_nodes_end_with_it():
    assert version.described("Decodes.") == f"Decodes. (Async Frame Pipeline {VERSION})"


def test_rescued_latents_name_it(monkeypatch):
    running = {"1": {}}, {"extra_pnginfo": {"workflow": {"nodes": []}}}
    monkeypatch.setattr(rescue.server, "running_prompt", lambda: running)
    monkeypatch.setattr(rescue.server, "metadata_enabled", lambda: True)
    ours = {"async_frame_pipeline": f'"{VERSION}"'}
    assert rescue.metadata() == {"prompt": '{"1": {}}', "workflow": '{"nodes": []}'} | ours
    monkeypatch.setattr(rescue.server, "metadata_enabled", lambda: False)
    assert rescue.metadata() is None
