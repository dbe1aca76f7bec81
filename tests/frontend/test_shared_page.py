"""The page that tests share: whatever one leaves behind, the next does not see."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from .conftest import Server, ShareEditor
from .shared_page import SHOWN, STATE, STORAGE
from .watching import RECORD

MESS = """async () => {
    const { setting, toast, sidebarTab, command } = app.extensionManager
    await setting.set('Comfy.VueNodes.Enabled', !setting.get('Comfy.VueNodes.Enabled'))
    await setting.set('AsyncFramePipeline.ShowLatestFrame', false)
    await command.execute('Comfy.NewBlankWorkflow')
    const node = LiteGraph.createNode('SaveVideoStreaming')
    app.rootGraph.add(node)
    const subgraph = app.rootGraph.convertToSubgraph(new Set([node])).node
    app.canvas.openSubgraph(subgraph.subgraph, subgraph)
    app.canvas.ds.scale = 2
    app.nodeOutputs['1'] = { images: [] }
    toast.add({ severity: 'info', summary: 'Still here' })
    sidebarTab.activeSidebarTabId = 'node-library'
    localStorage.ofATest = sessionStorage.ofATest = 'still here'
    await command.execute('Comfy.BrowseTemplates')
}"""


@pytest.mark.parametrize("nodes_2", [False, True])
def test_nothing_is_left_of_a_test(share_editor: ShareEditor, server: Server, nodes_2: bool):
    with share_editor(server, nodes_2=nodes_2) as editor:
        page = editor.page
        fresh = page.evaluate(STATE)
        page.route("**/object_info/**", lambda route: route.abort())
        page.evaluate(RECORD)
        page.evaluate(MESS)
        expect(page.get_by_text("Still here")).to_be_visible()
        expect(page.get_by_role("dialog")).to_be_visible()
        messy = page.evaluate(STATE)
        assert {name for name in fresh if messy[name] == fresh[name]} == {"errors", "selected"}

    assert page.evaluate(STATE) == fresh
    assert "ofATest" not in str(page.evaluate(STORAGE))
    expect(page.locator(SHOWN).filter(visible=True)).to_have_count(0)
    assert server.get("/settings/AsyncFramePipeline.ShowLatestFrame") is not False
    assert page.evaluate("async () => (await fetch('/object_info/SaveVideoStreaming')).ok"), "the test's route"
