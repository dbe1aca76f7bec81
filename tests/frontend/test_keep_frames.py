"""Connecting the frames of the saver switches keep_frames on, without which there are none."""

from __future__ import annotations

import pytest

from .conftest import Editor

CONNECT = """name => {
    app.rootGraph.clear()
    const [saver, user] = ['SaveVideoStreaming', 'PreviewAny'].map(type => {
        const node = LiteGraph.createNode(type)
        app.rootGraph.add(node)
        return node
    })
    // The frontend may give a node of an id that it has seen the values of the one before.
    saver.widgets.find(widget => widget.name === 'keep_frames').value = false
    saver.connect(saver.outputs.findIndex(output => output.name === name), user, 0)
}"""
KEPT = """() => app.rootGraph.nodes.find(node => node.type === 'SaveVideoStreaming')
    .widgets.find(widget => widget.name === 'keep_frames').value"""


@pytest.mark.parametrize("output, kept", [("frames", True), ("VIDEO", False), ("last_frame", False)])
def test_connecting_the_frames_keeps_them(editor: Editor, output: str, kept: bool):
    editor.page.evaluate(CONNECT, output)
    assert editor.page.evaluate(KEPT) is kept
    [saver] = [node for node in editor.exported()["output"].values() if node["class_type"] == "SaveVideoStreaming"]
    assert saver["inputs"]["keep_frames"] is kept


def test_a_stored_workflow_opens_as_it_was(editor: Editor):
    editor.page.evaluate(CONNECT, "frames")
    editor.page.evaluate(
        """async () => {
            const saver = app.rootGraph.nodes.find(node => node.type === 'SaveVideoStreaming')
            saver.widgets.find(widget => widget.name === 'keep_frames').value = false
            await app.loadGraphData(JSON.parse(JSON.stringify(app.rootGraph.serialize())))
        }"""
    )
    assert editor.page.evaluate(KEPT) is False
