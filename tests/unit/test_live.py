"""What the browser is told: to whom, how often, what; and nothing at all where no browser listens."""

import json
import threading
from fractions import Fraction

import pytest
import torch
from async_frame_pipeline.pipeline import engine
from async_frame_pipeline.pipeline.sinks.latest_frame import LatestFrame
from async_frame_pipeline.pipeline.sinks.formats import FORMATS, Choice
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink
from async_frame_pipeline.pipeline.sinks.video_file import VideoFileSink, VideoOptions
from async_frame_pipeline.pipeline.video_spec import VideoSpec

from . import in_comfyui  # noqa: F401
from .streams import ListSink, clip, in_chunks

import folder_paths
from async_frame_pipeline.pipeline.report import Decoded, Report
from async_frame_pipeline.pipeline.text import Text
from async_frame_pipeline.nodes import live as nodes_live
from comfy_execution.jobs import get_outputs_summary
from server import PromptServer

H264 = Choice(FORMATS["mp4 (h264)"], "medium")

CPU = torch.device("cpu")


class Server:
    """Stands in for ComfyUI's PromptServer: one connected client, whose node "5:12" runs."""

    def __init__(self):
        self.client_id = "browser"
        self.sockets = {"browser": object()}
        self.last_node_id = "5:12"
        self.last_prompt_id = "a-prompt"
        self.prompt_queue = self
        self.sent = []
        self.told = threading.Condition()

    def get_current_queue_volatile(self):
        prompt = {"5:12": {"class_type": "SaveVideo", "inputs": {}}}
        return [(0, "a-prompt", prompt, {}, [])], []

    def send_sync(self, event, data, sid):
        with self.told:
            self.sent.append((event, json.loads(json.dumps(data)), sid))
            self.told.notify_all()

    def wait_for(self, condition):
        """Until an event with `condition` has been sent."""
        with self.told:
            assert self.told.wait_for(lambda: any(condition(data) for _, data, _ in self.sent), 60), "never sent"

    @property
    def events(self):
        return [data for _, data, _ in self.sent]


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def live(server, tmp_path, monkeypatch):
    """nodes/live.py, in a ComfyUI whose server and user folder are the test's."""
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    return nodes_live


def teller_threads():
    return [thread for thread in threading.enumerate() if thread.name == "async-frame-pipeline-live"]


def run_watched(live, frames, sinks, decode=None):
    with live.watch(sinks, already_decoded=False) as watch:
        return engine.run(
            decode or in_chunks(frames, 1),
            VideoSpec(*frames.shape[1:], CPU),
            sinks,
            spectators=watch.spectators,
            check=watch.look,
            report=watch.report,
        )


def disconnect(server):
    server.client_id = None


def close_the_page(server):
    server.sockets.clear()


def use_no_server(server):
    PromptServer.instance = None


@pytest.mark.parametrize("leave", [disconnect, close_the_page, use_no_server])
def test_where_nobody_listens_nothing_is_counted_made_or_sent(live, server, leave, tmp_path):
    leave(server)
    sink = VideoFileSink(tmp_path / "out.mp4", VideoOptions(Fraction(16), H264))
    with live.watch([sink], already_decoded=False) as watch:
        assert watch.report.timeline is None
        assert list(watch.spectators) == []
        assert not teller_threads()
    live.tell("stock", Report())
    assert server.sent == []


def test_a_run_tells_its_progress_and_then_how_it_was(live, server):
    frames = clip(6)

    def decode(submit):
        for start in range(6):
            submit(frames[:, start : start + 1])
            if start == 3:
                server.wait_for(lambda data: data.get("written", 0) >= 3)

    report = run_watched(live, frames, [ListSink()], decode)
    *running, done = server.events
    assert running and {data["state"] for data in running} == {"running"}
    assert [data["written"] for data in running] == sorted(data["written"] for data in running)
    assert all(data["total"] == 6 and data["device"] == "cpu" for data in running)
    assert done["state"] == "done" and done["report"] == json.loads(json.dumps(report.as_dict()))
    assert done["report"]["chart"]["seconds"] > 0


def test_only_the_client_that_queued_the_prompt_hears_and_of_the_node_that_runs(live, server):
    server.sockets["another browser"] = object()
    run_watched(live, clip(2), [ListSink()])
    assert {(event, sid) for event, _, sid in server.sent} == {("async-frame-pipeline.lanes", "browser")}
    assert {(data["node"], data["type"], data["prompt_id"]) for data in server.events} == {
        ("5:12", "SaveVideo", "a-prompt")
    }


def test_events_come_at_a_steady_rate_however_many_frames_there_are(live, server, monkeypatch):
    """Time is the test's: the teller may only send when an interval is over."""
    intervals, waited = threading.Semaphore(0), []

    class Clock(threading.Event):
        def wait(self, timeout=None):
            if timeout == live.SECONDS_BETWEEN and not self.is_set():
                waited.append(timeout)
                intervals.acquire()
            return self.is_set()

    class Teller(live._Teller):
        def __init__(self, *args):
            super().__init__(*args)
            self._ended = Clock()

        def end(self, state):
            self._ended.set()
            intervals.release()
            super().end(state)

    monkeypatch.setattr(live, "_Teller", Teller)
    assert live.SECONDS_BETWEEN >= 0.25
    run_watched(live, clip(40), [ListSink()])
    assert [data["state"] for data in server.events] == ["done"], "40 frames went through in one interval"
    assert waited == [live.SECONDS_BETWEEN]


class Cancelled(BaseException):
    """ComfyUI's interrupt is no Exception either."""


@pytest.mark.parametrize("error", [Cancelled, OSError])
def test_a_run_that_fails_says_how_far_it_came(live, server, error):
    frames = clip(6)

    def decode(submit):
        submit(frames[:, :2])
        server.wait_for(lambda data: data.get("written") == 2)
        raise error

    with pytest.raises(error if error is Cancelled else engine.DecodeError):
        run_watched(live, frames, [ListSink()], decode)
    assert server.events[-1]["state"] == "stopped"
    assert (server.events[-1]["written"], server.events[-1]["total"]) == (2, 6)
    assert not teller_threads()


def refuse(*args, **kwargs):
    raise RuntimeError("injected by the test")


@pytest.mark.parametrize("state", ["running", "done", "stopped", "stock"])
def test_an_event_that_cannot_be_sent_ends_no_run(live, server, monkeypatch, state):
    """The browser's connection breaks, or the server's loop ends; the frames go on."""
    frames, sink, tried, real = clip(6), ListSink(), threading.Event(), server.send_sync
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)

    def send(event, data, sid):
        if data["state"] == state:
            tried.set()
            refuse()
        real(event, data, sid)

    def decode(submit):
        submit(frames[:, :3])
        if state == "running":
            assert tried.wait(60)
        if state == "stopped":
            raise OSError("the decoder broke")
        submit(frames[:, 3:])

    monkeypatch.setattr(server, "send_sync", send)
    if state == "stock":
        live.tell("stock", Report())
    elif state == "stopped":
        with pytest.raises(engine.DecodeError, match="the decoder broke"):
            run_watched(live, frames, [sink], decode)
    else:
        run_watched(live, frames, [sink], decode)
        assert sink.calls[-1] == "publish"
    assert tried.is_set() and not teller_threads() and died == []


def test_a_run_that_cannot_be_watched_goes_on(live, server, monkeypatch):
    monkeypatch.setattr(live._Teller, "start", refuse)
    sink = ListSink()
    run_watched(live, clip(6), [sink])
    assert sink.calls[-1] == "publish"


def test_the_stock_way_is_told_with_its_reason(live, server):
    live.tell("stock", Report(decoded=Decoded("stock", Text("the VAE's output is not RGB"))))
    [data] = server.events
    assert data == {
        "node": "5:12",
        "type": "SaveVideo",
        "prompt_id": "a-prompt",
        "state": "stock",
        "decoder": "stock",
        "texts": {"reason": {"text": "the VAE's output is not RGB", "values": {}}, "notes": []},
    }


def test_the_report_is_no_output_for_media_assets(live):
    """ComfyUI counts every dict in a list of a node's output as a file."""
    outputs = {"3": live.output(Report(frames=5), files=[{"filename": "a.mp4"}])}
    count, _ = get_outputs_summary(outputs)
    assert count == 0
    [report] = outputs["3"]["async_frame_pipeline"]
    report = json.loads(report)
    assert report["frames"] == 5 and report["files"] == [{"filename": "a.mp4"}] and report["verdict"]


# -- the latest frame -------------------------------------------------------------------------------


@pytest.fixture
def video_sink(tmp_path):
    return VideoFileSink(tmp_path / "out.mp4", VideoOptions(Fraction(16), H264))


def test_while_a_file_is_written_the_latest_frame_is_shown(live, server, video_sink):
    frames = clip(6, 32, 48)

    def decode(submit):
        submit(frames[:, :2])
        server.wait_for(lambda data: "frame" in data)
        submit(frames[:, 2:])

    report = run_watched(live, frames, [video_sink], decode)
    assert next(data["frame"] for data in server.events if "frame" in data).startswith("data:image/jpeg;base64,")
    assert report.writer == "the encoder", "the picture is not what a run waits for"
    assert report.ring_bytes == 2 * 4 * 32 * 48 * 3 // 2, "its pixels are the encoder's, not another copy"


def test_where_the_latest_frame_cannot_be_made_all_else_is_shown(live, server, monkeypatch, video_sink, caplog):
    """Said once, by the thread that tells, and not by Python of a thread that died."""
    frames, died = clip(6, 32, 48), []
    monkeypatch.setattr(threading, "excepthook", died.append)
    monkeypatch.setattr(LatestFrame, "take_jpeg", refuse)

    def decode(submit):
        submit(frames[:, :2])
        with server.told:
            assert server.told.wait_for(lambda: len(server.sent) >= 3, 60), "it stopped telling"
        submit(frames[:, 2:])

    run_watched(live, frames, [video_sink], decode)
    assert server.events[-1]["state"] == "done" and died == []
    assert len([message for message in caplog.messages if "the latest frame" in message]) == 1


def test_where_the_latest_frame_cannot_be_taken_the_file_is_saved(live, server, monkeypatch, video_sink):
    monkeypatch.setattr(LatestFrame, "write", refuse)
    run_watched(live, clip(6, 32, 48), [video_sink])
    assert video_sink.path.exists()


def test_an_image_is_not_a_file(live):
    with live.watch([TensorSink()], already_decoded=False) as watch:
        assert not any(isinstance(sink, LatestFrame) for sink in watch.spectators)


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        pytest.param({"AsyncFramePipeline.ShowLatestFrame": False}, False, id="off"),
        pytest.param({"AsyncFramePipeline.ShowLatestFrame": True}, True, id="on"),
        pytest.param({"Comfy.Locale": "en"}, True, id="never touched"),
        pytest.param("{half a fi", True, id="unreadable"),
        pytest.param("[]", True, id="no settings in it"),
        pytest.param(None, True, id="no settings yet"),
    ],
)
def test_the_setting_turns_the_latest_frame_off(live, server, tmp_path, video_sink, settings, shown):
    if settings is not None:
        (tmp_path / "default").mkdir()
        text = settings if isinstance(settings, str) else json.dumps(settings)
        (tmp_path / "default" / "comfy.settings.json").write_text(text)
    with live.watch([video_sink], already_decoded=False) as watch:
        assert any(isinstance(sink, LatestFrame) for sink in watch.spectators) == shown
        watch.report.timeline.begin(None)
