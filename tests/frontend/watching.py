"""A run that is watched from the frontend: what its panel showed at each event."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import Editor, Server

# Notes what each event makes of the panel. Listeners are called in order, and the pack's was there first.
RECORD = """async () => {
    const { api } = await import('/scripts/api.js')
    window.lanes = []
    const panels = graph => graph.nodes.flatMap(node => [
        ...(node.widgets ?? []).filter(widget => widget.name === 'async_frame_pipeline_lanes')
            .map(widget => widget.element),
        ...(node.subgraph ? panels(node.subgraph) : [])
    ])
    api.addEventListener('async-frame-pipeline.lanes', ({ detail }) => {
        const [panel] = panels(app.rootGraph)
        const text = selector => panel?.querySelector(selector)?.textContent
        window.lanes.push({
            detail: { ...detail, frame: undefined },
            frame_sent: !!detail.frame,
            title: text('.afp-lanes-head strong'),
            pace: text('.afp-lanes-head span'),
            decode: text('.afp-lanes-decode .afp-lanes-figure'),
            write: text('.afp-lanes-write .afp-lanes-figure'),
            bars: panel?.querySelector('.afp-lanes-decode path').getAttribute('d'),
            decoder: text('.afp-lanes-decoder'),
            stage_height: panel?.querySelector('.afp-stage').offsetHeight,
            picture: panel?.querySelector('img').naturalWidth,
            status: text('[role=status]')
        })
    }, { signal: (window.untilReset ??= new AbortController()).signal })
}"""


@dataclasses.dataclass
class Watched:
    """A run that was watched from the frontend."""

    editor: Editor
    before: dict  # what the frontend exported before it
    after: dict  # and after it
    entry: dict  # the server's history of it
    seen: list[dict]  # the panel at each event, see RECORD

    @property
    def report(self) -> dict:
        """What the node told programs."""
        [[report]] = [
            output["async_frame_pipeline"]
            for output in self.entry["outputs"].values()
            if "async_frame_pipeline" in output
        ]
        return json.loads(report)

    @property
    def running(self) -> list[dict]:
        return [moment for moment in self.seen if moment["detail"]["state"] == "running"]

    @property
    def last(self) -> dict:
        return self.seen[-1]


def queue(editor: Editor) -> str:
    """Press Run; the prompt's id."""
    with editor.page.expect_response(
        lambda response: response.url.endswith("/prompt") and response.request.method == "POST"
    ) as sent:
        editor.page.get_by_test_id("queue-button").click()
    return sent.value.json()["prompt_id"]


def watch(editor: Editor, frontend: Server) -> Watched:
    before = editor.exported()
    editor.page.evaluate(RECORD)
    entry = frontend.wait(queue(editor))
    assert entry["status"]["status_str"] == "success", entry["status"]
    # The last event may still be on its way.
    editor.page.wait_for_function("() => window.lanes.at(-1)?.detail.state === 'done'")
    settle(editor)
    return Watched(editor, before, editor.exported(), entry, editor.page.evaluate("() => window.lanes"))


def settle(editor: Editor) -> None:
    """Until everything that was going to be drawn has been: two frames without a change of the panel's place."""
    editor.page.evaluate(
        """async () => {
            const place = () => JSON.stringify(document.querySelector('.afp-lanes')?.getBoundingClientRect())
            const frame = () => new Promise(requestAnimationFrame)
            for (let last = null, same = 0; same < 3; ) {
                await frame()
                same = place() === last ? same + 1 : 0
                last = place()
            }
        }"""
    )
