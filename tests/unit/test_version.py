"""The version has one place, and whatever else must name it agrees."""

import re

from async_frame_pipeline.nodes import log, rescue, version
from async_frame_pipeline.pipeline import VERSION

from ..conftest import ROOT
from . import in_comfyui  # noqa: F401


def test_the_registry_gets_the_same_version():
    [project] = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert project == VERSION


def test_the_changelog_begins_with_it():
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[0] == VERSION


def test_lines_in_the_log_name_it(caplog):
    caplog.set_level("INFO", "async-frame-pipeline")
    log.say("done")
    assert caplog.messages == [f"async-frame-pipeline {VERSION}: done"]


def test_descriptions_of_nodes_end_with_it():
    assert version.described("Decodes.") == f"Decodes. (Async Frame Pipeline {VERSION})"


def test_rescued_latents_name_it(monkeypatch):
    monkeypatch.setattr(rescue.server, "running_prompt", lambda: ({"1": {}}, {"extra_pnginfo": {"workflow": {"nodes": []}}}))
    monkeypatch.setattr(rescue.server, "metadata_enabled", lambda: True)
    assert rescue._metadata() == {"prompt": '{"1": {}}', "workflow": '{"nodes": []}', "async_frame_pipeline": f'"{VERSION}"'}
    monkeypatch.setattr(rescue.server, "metadata_enabled", lambda: False)
    assert rescue._metadata() is None
