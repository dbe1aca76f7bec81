"""The editor, with what the tests of the swap do in it."""

from __future__ import annotations

import json

from playwright.sync_api import expect

from .conftest import Editor

SPEED_UP = "AsyncFramePipeline.SpeedUpVideoDecoding"
RESTORE = "AsyncFramePipeline.RestoreVideoDecoding"

# A loaded graph settles over some frames: types of slots are inferred, and with Nodes 2.0 the browser measures nodes.
# It has settled once it stays the same for as many frames.
SETTLED = """async () => {
    const state = () => JSON.stringify(app.rootGraph.serialize())
    for (let before = state(), same = 0; same < 10; ) {
        await new Promise(requestAnimationFrame)
        const now = state()
        same = now === before ? same + 1 : 0
        before = now
    }
}"""
SERIALIZED = """() => {
    const workflow = JSON.parse(JSON.stringify(app.rootGraph.serialize()))
    delete workflow.extra.ds // where the user has scrolled to
    return JSON.stringify(workflow)
}"""
# Where to click: the title of a node, centred in the window.
TITLE_OF = """id => {
    const node = app.canvas.graph.getNodeById(id)
    app.canvas.ds.scale = 1
    app.canvas.centerOnNode(node)
    app.canvas.setDirty(true, true)
    const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + 60, node.pos[1] - 12])
    const box = document.getElementById('graph-canvas').getBoundingClientRect()
    return [box.x + x, box.y + y]
}"""
LOAD = "workflow => app.loadGraphData(workflow, true, true, null, {silentAssetErrors: true})"
RELOAD = """() => app.loadGraphData(
    app.rootGraph.serialize(), false, false, app.extensionManager.workflow.activeWorkflow, {silentAssetErrors: true}
)"""
# So that what loading changed is not taken for a change of the test.
CAPTURE = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()"
DISMISS_TOASTS = "() => (app.extensionManager.toast.dismissAll ?? app.extensionManager.toast.removeAll)()"
UNDO_STEPS = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"


class SwapEditor(Editor):
    def load(self, workflow: dict) -> None:
        """Open a workflow in a new tab, with nothing left of what was done before."""
        self.page.keyboard.press("Escape")  # an open menu
        self.page.evaluate(DISMISS_TOASTS)
        self.page.evaluate(LOAD, workflow)
        self.page.evaluate(SETTLED)

    def show(self, workflow: dict) -> None:
        """Open a workflow, and let it become what loading it again, as undo does, would not change: the editor makes
        nodes larger and completes slots, and not all of it at once."""
        self.load(workflow)
        self.steady()

    def steady(self) -> None:
        for _ in range(5):
            before = self.serialized()
            self.page.evaluate(RELOAD)
            self.page.evaluate(SETTLED)
            if self.serialized() == before:
                break
        self.page.evaluate(CAPTURE)

    def serialized(self) -> str:
        """The workflow as it would be saved."""
        return self.page.evaluate(SERIALIZED)

    def workflow(self) -> dict:
        return json.loads(self.serialized())

    def prompt(self) -> dict:
        """The workflow as it would be queued."""
        return self.page.evaluate("async () => JSON.parse(JSON.stringify((await app.graphToPrompt()).output))")

    def run_command(self, id: str) -> None:
        self.page.evaluate("id => app.extensionManager.command.execute(id)", id)

    def undo_steps(self) -> int:
        return self.page.evaluate(UNDO_STEPS)

    def undo(self) -> None:
        self.page.locator("#graph-canvas").press("Control+z")

    def enter_subgraph(self, node_id: int) -> None:
        self.page.evaluate(
            "id => app.canvas.openSubgraph(app.rootGraph.getNodeById(id).subgraph, app.rootGraph.getNodeById(id))",
            node_id,
        )
        self.page.evaluate(SETTLED)
        self.steady()

    def menu_of(self, node_id: int) -> None:
        """Right-click on a node."""
        self.page.evaluate(TITLE_OF, node_id)
        self.page.evaluate(SETTLED)
        self.page.mouse.click(*self.page.evaluate(TITLE_OF, node_id), button="right")

    def expect_toast(self, summary: str, *lines: str) -> None:
        """A toast that says this and nothing else."""
        expect(self.page.get_by_text(summary, exact=True).first).to_be_visible()
        expect(self.page.get_by_text(" ".join(lines), exact=True).first).to_be_visible()
