"""Placeholders in the file name prefix, which the frontend fills in when it queues a prompt."""

from __future__ import annotations

import re

from .conftest import Editor


def test_placeholders_are_filled_in_when_queued(editor: Editor):
    editor.open_template("Demo")
    editor.page.evaluate(
        """() => {
            const saver = app.rootGraph.nodes.find(node => node.type === 'SaveVideoStreaming')
            saver.widgets.find(widget => widget.name === 'filename_prefix').value =
                '%date:yyyy-MM-dd%/%AsyncVAEDecodeToVideo.fps%fps'
        }"""
    )
    exported = editor.exported()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d/16fps", exported["output"]["3"]["inputs"]["filename_prefix"])
    [saver] = [node for node in exported["workflow"]["nodes"] if node["type"] == "SaveVideoStreaming"]
    assert saver["widgets_values"][0].startswith("%date"), "the saved workflow keeps the placeholder"
