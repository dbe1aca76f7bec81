"""While a video is connected, the saver's fps, which is that of images, is greyed out."""

from __future__ import annotations

import pytest

from .conftest import Editor

CONNECT = """([type, output, input]) => {
    app.rootGraph.clear()
    const [source, saver] = [type, 'SaveVideoStreaming'].map(type => {
        const node = LiteGraph.createNode(type)
        app.rootGraph.add(node)
        return node
    })
    source.connect(source.outputs.findIndex(slot => slot.name === output), saver,
        saver.inputs.findIndex(slot => slot.name === input))
}"""
SAVER = "app.rootGraph.nodes.find(node => node.type === 'SaveVideoStreaming')"
GREY = f"() => !!{SAVER}.widgets.find(widget => widget.name === 'fps').computedDisabled"
DISCONNECT = f"() => {SAVER}.disconnectInput({SAVER}.inputs.findIndex(slot => slot.name === 'video'))"
OPEN_AGAIN = "() => app.loadGraphData(JSON.parse(JSON.stringify(app.rootGraph.serialize())))"
VIDEO, IMAGES = ("CreateVideo", "VIDEO", "video"), ("EmptyImage", "IMAGE", "images")


@pytest.mark.parametrize("source, grey", [(VIDEO, True), (IMAGES, False)])
def test_only_a_video_has_its_own(editor: Editor, source: tuple[str, str, str], grey: bool):
    editor.page.evaluate(CONNECT, source)
    assert editor.page.evaluate(GREY) is grey
    editor.page.evaluate(OPEN_AGAIN)
    assert editor.page.evaluate(GREY) is grey, "in a stored workflow as well"


def test_it_is_there_again_once_the_video_is_not(editor: Editor):
    editor.page.evaluate(CONNECT, VIDEO)
    editor.page.evaluate(DISCONNECT)
    assert editor.page.evaluate(GREY) is False
    [saver] = [node for node in editor.exported()["output"].values() if node["class_type"] == "SaveVideoStreaming"]
    assert saver["inputs"]["fps"] == 24
