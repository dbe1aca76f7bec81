"""Tells the browser that queued a prompt what the lanes are doing; the only place that sends events.

Where no browser listens, nothing is counted, made or sent. Events of type EVENT hold the id of the "node"
that runs and a "state":
    "running"   four times a second, with `Report.progress`; where the latest frame is shown also with the frames'
                "size", (width, height), and now and then a new "frame" (a data URL)
    "done"      at the end, with `Report.as_dict` under "report"
    "stopped"   after an error or a cancel, with the last progress
    "stock"     decoding begins outside of the lanes: "decoder" and "texts" as in a progress

Whatever goes wrong in here is said in one line of the log, and the run goes on.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..pipeline.report import Decoded, Report
from ..pipeline.sinks import Sink
from ..pipeline.sinks.latest_frame import LatestFrame
from ..pipeline.timeline import Timeline
from .comfyui import server

EVENT = "async-frame-pipeline.lanes"
OUTPUT = "async_frame_pipeline"
FRAME_SETTING = "AsyncFramePipeline.ShowLatestFrame"
SECONDS_BETWEEN = 0.25


@dataclass(frozen=True, slots=True)
class Watch:
    """What a run is to be made with, so that it can be watched.

    Attributes:
        report: for `engine.run`.
        spectators: a sink for the latest frame, if that is wanted.
        look: to be called on the submitting thread, often.
    """

    report: Report
    spectators: Sequence[Sink] = ()
    look: Callable[[], None] = lambda: None


@contextlib.contextmanager
def watch(sinks: Sequence[Sink], already_decoded: bool, decoded: Decoded | None = None) -> Iterator[Watch]:
    """For the length of one run, show it to whoever queued the prompt.

    Args:
        sinks: of the run.
        already_decoded, decoded: see `Report`.
    """
    report = Report(already_decoded=already_decoded, decoded=decoded or Decoded())
    client = server.listener(EVENT)
    if client is None:
        yield Watch(report)
        return
    report.timeline = Timeline()
    latest = None
    if sinks[0].pixel_format.layout != "image" and server.setting(FRAME_SETTING) is not False:
        latest = LatestFrame(sinks[0].pixel_format)
    teller = _Teller(report, latest, client)
    with _going_on("telling the browser"):
        teller.start()
    try:
        yield Watch(report, [latest] if latest is not None else [], report.timeline.look)
    except BaseException:
        teller.end("stopped")
        raise
    teller.end("done")


@contextlib.contextmanager
def _going_on(doing: str) -> Iterator[None]:
    """A run is not ended by what is only watched."""
    try:
        yield
    except Exception as error:
        logging.warning("async-frame-pipeline: %s failed, the run goes on: %s: %s", doing, type(error).__name__, error)


def tell(state: str, report: Report) -> None:
    """Say in the node, where no lanes run, that decoding begins ("stock") or how it was ("done")."""
    client = server.listener(EVENT)
    if client is not None:
        with _going_on("telling the browser"):
            client(_event(state, report))


def output(report: Report, **more: object) -> dict:
    """What a node puts into the history, for programs and for the panel: the report and more, as one JSON text.

    As text, since ComfyUI counts dicts among a node's outputs as files, and shows them in Media Assets.
    """
    return {OUTPUT: [json.dumps(report.as_dict() | more)]}


class _Teller(threading.Thread):
    """Sends what the report says, at a steady rate: a thread of its own, so that no lane is ever held up."""

    def __init__(self, report: Report, latest: LatestFrame | None, send: Callable[[dict], None]):
        super().__init__(name="async-frame-pipeline-live", daemon=True)
        self._report = report
        self._latest = latest
        self._shows_frames = latest is not None
        self._send = send
        self._ended = threading.Event()
        self._began_seconds = time.perf_counter()

    def run(self) -> None:
        with _going_on("telling the browser"):
            while not self._ended.wait(SECONDS_BETWEEN):
                self._send(self._progress("running") | self._new_frame())

    def end(self, state: str) -> None:
        """Stop, and send the last event."""
        self._ended.set()
        if self.ident is None:  # it could not be started
            return
        self.join()
        with _going_on("telling the browser"):
            self._send(_event(state, self._report) if state == "done" else self._progress(state))

    def _new_frame(self) -> dict:
        latest, self._latest = self._latest, None
        with _going_on("showing the latest frame"):
            jpeg = latest.take_jpeg() if latest is not None else None
            self._latest = latest  # if it cannot be made, it is not tried again
            return {"frame": _data_url(jpeg)} if jpeg else {}
        return {}

    def _progress(self, state: str) -> dict:
        size = {"size": (self._report.width, self._report.height)} if self._shows_frames else {}
        return {"state": state} | self._report.progress(time.perf_counter() - self._began_seconds) | size


def _event(state: str, report: Report) -> dict:
    if state == "done":
        return {"state": state, "report": report.as_dict()}
    return {"state": state, "decoder": report.decoded.decoder, "texts": report.texts()}


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
