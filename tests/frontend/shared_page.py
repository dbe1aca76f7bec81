"""One page of the frontend for many tests: a page takes seconds to load, and a moment to reset."""

from __future__ import annotations

from playwright.sync_api import Page, expect

# What a test may leave behind. The numbers and names that the frontend counts up for itself are left out.
STATE = """() => {
    const { setting, workflow, sidebarTab, bottomPanel, lastNodeErrors, lastExecutionError } = app.extensionManager
    const { nodes, links, groups, definitions } = app.rootGraph.serialize()
    return {
        settings: Object.fromEntries(
            Object.keys(setting.settings).map(id => [id, JSON.stringify(setting.get(id)) ?? ''])),
        tabs: workflow.openWorkflows.length,
        graph: [nodes, links, groups, definitions?.subgraphs ?? []].map(list => list.length),
        in_subgraph: app.canvas.graph !== app.rootGraph,
        view: [app.canvas.ds.scale, ...app.canvas.ds.offset],
        selected: app.canvas.selectedItems.size,
        outputs: Object.keys(app.nodeOutputs),
        errors: [lastNodeErrors, lastExecutionError].map(each => each ?? null),
        panels: [sidebarTab.activeSidebarTabId ?? null, bottomPanel.bottomPanelVisible],
        listeners: window.untilReset ? 1 : 0
    }
}"""
STORAGE = "() => [{ ...localStorage }, { ...sessionStorage }]"
SHOWN = "[role=dialog], [role=menu], .p-toast-message, .p-contextmenu, .p-tooltip, .litecontextmenu"
RESET = """async ([settings, storage]) => {
    const { setting, workflow, toast, sidebarTab, bottomPanel, command } = app.extensionManager
    window.untilReset?.abort()
    delete window.untilReset
    document.activeElement?.blur()
    LiteGraph.closeAllContextMenus(window)
    const dialogs = document.getElementById('vue-app').__vue_app__.config.globalProperties.$pinia._s.get('dialog')
    for (const { key } of [...dialogs.dialogStack]) dialogs.closeDialog({ key });
    (toast.dismissAll ?? toast.removeAll)()
    sidebarTab.activeSidebarTabId = null
    if (bottomPanel.bottomPanelVisible) bottomPanel.toggleBottomPanel()
    for (const [id, value] of Object.entries(settings))
        if (value && JSON.stringify(setting.get(id)) !== value) await setting.set(id, JSON.parse(value))
    await command.execute('Comfy.NewBlankWorkflow')
    for (const tab of [...workflow.openWorkflows])
        if (tab !== workflow.activeWorkflow) await workflow.closeWorkflow(tab)
    app.clean()
    app.canvas.deselectAll()
    Object.assign(app.canvas.ds, { scale: 1, offset: [0, 0] })
    app.canvas.setDirty(true, true);
    [localStorage, sessionStorage].forEach((each, i) => { each.clear(); Object.assign(each, storage[i]) })
}"""


class SharedPage:
    """A page that is lent to one test after another.

    Listeners of a test's own, in the page, end with it when they are given `signal: (window.untilReset ??= new
    AbortController()).signal`.

    Args:
        page: freshly loaded; an empty graph takes the place of the one that it came with.
    """

    def __init__(self, page: Page):
        self.page = page
        self._settings = page.evaluate(STATE)["settings"]
        self._storage = page.evaluate(STORAGE)
        page.evaluate(RESET, [self._settings, self._storage])
        self._fresh = page.evaluate(STATE)

    def reset(self) -> None:
        """Make it as it was: an empty graph in the only tab, the settings, nothing open, nobody listening.

        Raises:
            AssertionError: it is not; the page is closed.
        """
        try:
            self.page.unroute_all()
            self.page.keyboard.press("Escape")  # menus
            self.page.mouse.move(0, 0)
            self.page.evaluate(RESET, [self._settings, self._storage])
            assert self.page.evaluate(STATE) == self._fresh
            expect(self.page.locator(SHOWN).filter(visible=True)).to_have_count(0)
        except BaseException:
            self.page.context.close()
            raise
