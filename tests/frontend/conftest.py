"""The real frontend, in a real browser, on a real server with this pack.

CHROMIUM_PATH names the browser; without it, Debian's. A missing browser fails these tests, so that
a run cannot pass without them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ..newest import unpacked
from .shared_page import SharedPage
from .watching import RECORD, Watched, watch

REPO = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(REPO / "scripts"))

from host import PACK_NAME, Server  # noqa: E402

# All of these only keep the browser quiet and let it run as root in a container.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# For what takes the frontend a moment on a busy machine. Nothing waits this long unless it fails.
PATIENCE_MS = 60_000

NODES_2 = "/settings/Comfy.VueNodes.Enabled"

expect.set_options(timeout=PATIENCE_MS)

# The default graph comes last in the frontend's own start; what is loaded before it would be replaced by it.
READY = (
    "() => window.app?.vueAppReady && app.extensionManager && !app.extensionManager.spinner"
    " && app.rootGraph.nodes.length"
)


class Editor:
    """One browser page with the frontend in it.

    Args:
        page: with the frontend in it, ready.
    """

    def __init__(self, page: Page):
        self.page = page

    @classmethod
    def open(cls, browser: Browser, url: str, **context: object) -> Editor:
        """The frontend of the server at `url` in a fresh page, as a browser that has never seen it.

        Args:
            context: what else the browser is, such as locale="zh-CN".
        """
        context = browser.new_context(viewport={"width": 1500, "height": 900}, **context)
        context.set_default_timeout(PATIENCE_MS)
        # The tests must not depend on, or talk to, anything but the server under test.
        context.route(lambda each: not each.startswith((url, "blob:", "data:")), lambda route: route.abort())
        page = context.new_page()
        page.goto(url)
        page.wait_for_function(READY)
        return cls(page)

    def open_template(self, name: str) -> None:
        """Open one of our templates as a user does: in the template browser, by its card."""
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self.page.get_by_role("dialog").get_by_text(PACK_NAME).click()
        self.page.get_by_test_id(f"template-workflow-{name}").click()
        expect(self.page.get_by_role("dialog")).to_have_count(0)
        # The card's click loads the graph some moments later: only ours holds the sample node.
        self.page.wait_for_function("() => app.rootGraph.nodes.some(node => node.type === 'SampleVideoLatent')")

    def clear(self) -> None:
        """Show an empty graph."""
        self.page.evaluate("() => app.rootGraph.clear()")

    def add(self, node_type: str) -> None:
        """Show a graph of one new node, selected."""
        self.clear()
        self.page.evaluate(
            """type => {
                const node = LiteGraph.createNode(type)
                app.rootGraph.add(node)
                node.pos = [300, 300]
                app.canvas.selectNode(node)
            }""",
            node_type,
        )

    def missing_node_types(self) -> list[str]:
        """Types in the graph that the frontend does not know and shows in red."""
        return self.page.evaluate(
            """() => app.rootGraph.nodes
                .filter(node => node.has_errors || !(node.type in LiteGraph.registered_node_types))
                .map(node => node.type)"""
        )

    def exported(self) -> dict:
        """{"workflow": the graph as saved, "output": the API prompt as queued}."""
        exported = self.page.evaluate("async () => JSON.parse(JSON.stringify(await app.graphToPrompt()))")
        exported["workflow"]["extra"].pop("ds", None)  # where the user has scrolled to
        return exported

    def drop(self, url: str, filename: str, kind: str = "video/mp4") -> None:
        """Drop a file that the server serves onto the empty part of the canvas."""
        self.page.evaluate(
            """async ([url, filename, type]) => {
                const blob = await (await fetch(url)).blob()
                const dataTransfer = new DataTransfer()
                dataTransfer.items.add(new File([blob], filename, {type}))
                const where = {dataTransfer, bubbles: true, cancelable: true, clientX: 700, clientY: 700}
                for (const kind of ['dragenter', 'dragover', 'drop'])
                    document.getElementById('graph-canvas').dispatchEvent(new DragEvent(kind, where))
            }""",
            [url, filename, kind],
        )


ShareEditor = Callable[..., contextlib.AbstractContextManager[Editor]]


@pytest.fixture(scope="session")
def server(server: Server) -> Server:
    """The plain server; all frontend tests share it."""
    # Comes with ComfyUI. Before a page is loaded, which asks once for what Load Image can load.
    shutil.copy(server.host.root / "input" / "example.png", server.base / "input")
    greet_nobody(server)
    return server


@pytest.fixture(scope="session", params=["pinned", pytest.param("newest", marks=pytest.mark.nightly)])
def frontend(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of the frontend that the host asks for, and one of the newest."""
    if request.param == "pinned":
        yield server
        return
    static = unpacked("comfyui-frontend-package", "newest-frontend") / "comfyui_frontend_package" / "static"
    with Server("--front-end-root", str(static), base=tmp_path_factory.mktemp("newest")) as newest:
        greet_nobody(newest)
        yield newest


def greet_nobody(server: Server) -> None:
    """A new user is greeted by a dialog over the canvas."""
    server.post("/settings/Comfy.TutorialCompleted", True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM_PATH", "/usr/bin/chromium")
    if not Path(path).is_file():
        pytest.fail(
            f"no browser at {path}: install Chromium (apt-get install chromium), or set CHROMIUM_PATH", pytrace=False
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def open_editor(browser: Browser) -> Callable[..., Editor]:
    """Opens the frontend of a server in a fresh page, for who looks at loading or keeps the page."""

    def open(server: Server, nodes_2: bool = False, **context: object) -> Editor:
        # The server keeps this for the next page, whoever set it.
        server.post(NODES_2, nodes_2)
        return Editor.open(browser, server.url, **context)

    return open


@pytest.fixture(scope="session")
def share_editor(open_editor: Callable[..., Editor]) -> ShareEditor:
    """Lends an editor that is as if fresh: `with share_editor(server, nodes_2=True) as editor`.

    There is one page per server, renderer and kind of browser (see Editor.open); it was loaded with its renderer.
    """
    pages: dict[tuple, SharedPage] = {}

    @contextlib.contextmanager
    def share(server: Server, nodes_2: bool = False, **context: object) -> Iterator[Editor]:
        key = server.url, nodes_2, *context.items()
        page = pages.pop(key, None)
        if page is None:
            page = SharedPage(open_editor(server, nodes_2, **context).page)
            server.post(NODES_2, False)
        try:
            yield Editor(page.page)
        finally:
            page.reset()
            pages[key] = page  # one that cannot be reset is not used again

    return share


@pytest.fixture
def editor(share_editor: ShareEditor, server: Server) -> Iterator[Editor]:
    """The pinned frontend, in the page that most tests share."""
    with share_editor(server) as editor:
        yield editor


@pytest.fixture
def chinese_editor(share_editor: ShareEditor, server: Server) -> Iterator[Editor]:
    """The same in the browser of a user who reads Chinese, and has chosen nothing."""
    with share_editor(server, locale="zh-CN") as editor:
        # The frontend starts in English, and changes when the language has arrived.
        expect(editor.page.get_by_role("button", name="设置").first).to_be_visible()
        yield editor


@pytest.fixture(scope="session")
def demo(open_editor: Callable[..., Editor], share_editor: ShareEditor, frontend: Server) -> Iterator[Watched]:
    """The demo template, run once for all tests here: decoding takes half a minute on a CPU."""
    editor = open_editor(frontend)
    editor.open_template("Demo")
    with share_editor(frontend) as other:
        other.page.evaluate(RECORD)
        watched = watch(editor, frontend)
        assert other.page.evaluate("() => window.lanes") == [], "another browser was told"
    yield watched
    editor.page.context.close()
