"""Decode elsewhere without a farm: what leaves, what is remembered, and one file whatever happens to who collects."""

import asyncio
import contextlib
import dataclasses
import gc
import json
import shutil
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import safetensors
import torch

from . import in_comfyui

import folder_paths
from async_frame_pipeline.farm import client as farm_client
from async_frame_pipeline.farm.blobs import Broken, Missing, Scratch, sha256_of
from async_frame_pipeline.farm.messages import (
    CANCELLED,
    COMPLETED,
    ENDED,
    FAILED,
    IN_PROGRESS,
    QUEUED,
    Blob,
    Client,
    InvalidJob,
    Job,
    Params,
    Record,
    Result,
    Vae,
    job_id,
)
from async_frame_pipeline.farm.settings import NoFarm
from async_frame_pipeline.nodes import elsewhere, elsewhere_collector, elsewhere_files, elsewhere_jobs
from async_frame_pipeline.nodes.comfyui import vaes
from async_frame_pipeline.nodes.elsewhere_collector import Collector, Unreachable
from async_frame_pipeline.nodes.elsewhere_jobs import OUTPUT, Jobs, Sent, output_of
from async_frame_pipeline.nodes.families import wan
from async_frame_pipeline.pipeline.decoders.fast import weights
from async_frame_pipeline.pipeline.sinks.audio import Audio
from async_frame_pipeline.pipeline.sinks.unfinished import Unfinished

ID = job_id("prompt", "9")
VIDEO = b"the video" * 1000


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """ComfyUI's own, empty."""
    for name in ("output", "input", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path


def latents(frames=2, batch=1, dtype=torch.float32):
    return {"samples": torch.randn(batch, 16, frames, 3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)}


# -- what leaves -------------------------------------------------------------------------------------


def test_what_cannot_go_elsewhere_says_why():
    vae = in_comfyui.vae("wan 2.1")
    assert elsewhere_files.why_not(vae, latents()) is None
    assert "(2, 16, 2, 3, 4)" in elsewhere_files.why_not(vae, latents(batch=2))
    assert "SeedVR2, TAEHV, Mochi, Cosmos" in elsewhere_files.why_not(in_comfyui.vae("image"), latents())
    other = {"samples": torch.zeros(1, 8, 2, 3, 4)}
    assert "(1, 8, 2, 3, 4)" in elsewhere_files.why_not(in_comfyui.vae("cogvideox"), other)
    with pytest.raises(ValueError, match="channels"):
        elsewhere_files.why_not(vae, {"samples": torch.zeros(1, 48, 2, 3, 4)})
    vae.patcher.patches = {"x": 1}
    assert "patched" in elsewhere_files.why_not(vae, latents())


def test_a_vae_that_the_fast_decoder_is_wrong_for_asks_for_its_own_modules_and_for_their_memory():
    vae = in_comfyui.vae("wan 2.1")
    assert wan.verdict(vae) is None
    wan.loaded(vae)
    large = {"samples": torch.zeros(1, 16, 2, 90, 160)}
    fast_mb = elsewhere_files.need_mb(vae, large)
    assert 0 <= wan.verdict(vae) <= 0.03 and elsewhere_files.decoder(vae) == "auto"
    wan._loaded[vae.first_stage_model] = "it differs"
    assert elsewhere_files.why_not(vae, latents()) is None and elsewhere_files.decoder(vae) == "exact"
    assert elsewhere_files.need_mb(vae, large) > 2 * fast_mb


@pytest.mark.parametrize("answers", [[], [["fast"]], [3], [["fast"], ["exact"]]])
def test_what_only_a_comfyui_decodes_is_not_sent_where_no_worker_has_one(folders, monkeypatch, answers):
    class Asked(StandIn):
        is_connected = True

        async def ask_all(self, subject, wait_seconds, until):
            told = [{"name": "w", "decoders": each} for each in answers]
            assert [*map(until, told)] == [each == ["exact"] for each in answers]
            return told

    collector = Collector(Jobs(folders / "jobs"))
    collector._client = Asked(folders, None)
    finds = contextlib.nullcontext() if ["exact"] in answers else pytest.raises(Unreachable, match="--comfyui")
    with finds:
        asyncio.run(collector._found("exact"))


def test_the_vae_is_one_file_that_both_sides_can_read(folders):
    vae = in_comfyui.vae("wan 2.1")
    path = elsewhere_files.write_vae(vae)
    assert elsewhere_files.write_vae(vae) == path
    digest = sha256_of(path)
    state = safetensors.torch.load_file(path)
    assert weights.load(state, torch.device("cpu"), torch.float32).latent[0].shape[1] == 16
    again = vaes.load_vae(str(path)).first_stage_model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in vae.first_stage_model.state_dict().items())
    # Another of the same weights is the same file to a farm, which knows it by its content.
    assert sha256_of(elsewhere_files.write_vae(in_comfyui.vae("wan 2.1"))) == digest
    path.unlink()
    assert sha256_of(elsewhere_files.write_vae(vae)) == digest
    del vae, state, again
    gc.collect()
    assert list((folders / "temp").iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_latent_is_a_file_as_comfyui_writes_it(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(elsewhere_files.rescue, "metadata", lambda: {"prompt": "{}", "workflow": "[]"})
    samples = latents(dtype=dtype)
    path = elsewhere_files.write_latent(samples, tmp_path / "a.latent")
    shape, told = farm_client.shape_of(path)
    assert shape == (1, 16, 2, 3, 4) and told == ("bfloat16" if dtype == torch.bfloat16 else "float32")
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) == {"latent_tensor", "latent_format_version_0"}
        assert file.metadata() == {"prompt": "{}", "workflow": "[]"}
        assert torch.equal(file.get_tensor("latent_tensor").to(dtype), samples["samples"].float().to(dtype))


def test_a_workflow_that_a_job_has_no_room_for_stays_here(tmp_path, monkeypatch):
    monkeypatch.setattr(elsewhere_files.rescue, "metadata", lambda: {"workflow": "x" * (2 << 20)})
    path = elsewhere_files.write_latent(latents(), tmp_path / "a.latent")
    assert farm_client.shape_of(path)[0] == (1, 16, 2, 3, 4)


def test_the_sound_is_flac_of_24_bits_no_longer_than_the_video(tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, (2, 48_000)).astype(np.float32)
    path = elsewhere_files.write_sound(Audio(samples, 48_000), Fraction(1, 2), tmp_path / "a.flac")
    assert path.read_bytes()[:4] == b"fLaC"
    with av.open(str(path)) as container:
        heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    heard = heard.reshape(-1, 2).T / 2**31
    assert heard.shape == (2, 24_000) and np.abs(heard - samples[:, :24_000]).max() < 2**-22


@pytest.mark.parametrize(
    "prefix", ["video/ComfyUI", "../../etc/x", "C:\\x", "a\u200bb//c", "x" * 300, "..", "/", "é 漢"]
)
def test_what_a_job_is_told_of_the_name_is_what_it_takes(prefix):
    made = record(name_prefix=elsewhere._told_prefix(prefix))
    assert made.job.name_prefix


def test_a_client_leaves_no_file_behind_what_goes_wrong(tmp_path):
    class Full:
        async def has(self, kind, name):
            return False

        async def put(self, kind, name, path, copy):
            copy.write_bytes(b"x")
            raise OSError(28, "No space left on device")

        async def get(self, kind, name, size, into):
            into.write_bytes(b"x")
            return into

    class Broker:
        async def record(self, job_id):
            return record()

    client = farm_client.Client(Broker(), Full(), Scratch(tmp_path))
    latent = elsewhere_files.write_latent(latents(), tmp_path / "a.latent")
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(client.submit(latent, latent))
    for fetching in (client.copy(record(), tmp_path / "a.mp4"), client.latent(ID, tmp_path / "b.latent")):
        with pytest.raises(Broken):
            asyncio.run(fetching)
    assert [*client.scratch.iterdir()] == []
    assert {path.name for path in tmp_path.iterdir()} == {"a.latent", "scratch"}


@pytest.mark.parametrize("missing", ["farm", "nats"])
def test_without_a_farm_or_its_package_one_line_says_what_to_do(tmp_path, monkeypatch, missing):
    monkeypatch.delenv("AFP_FARM", raising=False)
    monkeypatch.setenv("AFP_FARM_HOME", str(tmp_path))
    if missing == "nats":
        monkeypatch.setenv("AFP_FARM", "nats://token@127.0.0.1:1")
        monkeypatch.setitem(elsewhere_collector.sys.modules, "nats", None)
    reason = elsewhere_collector.why_no_farm()
    assert ("farm up" if missing == "farm" else "-m pip install -r") in reason and "\n" not in reason
    if missing == "nats":
        assert str(elsewhere_collector.REQUIREMENTS) in reason and elsewhere_collector.REQUIREMENTS.is_file()


# -- what is remembered ------------------------------------------------------------------------------


def end(jobs):
    """As when their ComfyUI ends: the folder is nobody's."""
    if jobs._held is not None:
        jobs._held.close()


def test_a_restart_forgets_nothing_and_a_damaged_note_costs_no_other(tmp_path):
    jobs = Jobs(tmp_path / "jobs")
    assert jobs.told() == [] and not (tmp_path / "jobs").exists()
    first = jobs.keep(Sent(ID, "prompt", "9", "9", listener="page", prefix="video/x"), state="in_progress")
    jobs.keep(Sent("1" * 32), state="completed", ui={"images": []})
    (tmp_path / "jobs" / f"{'2' * 32}.json").write_text("{")
    end(jobs)
    again = Jobs(tmp_path / "jobs")
    assert again.get(ID) == dataclasses.replace(first, is_earlier=True) and len(again.all()) == 2 and again.any_open()
    assert again.client() == jobs.client() and len(jobs.client()) == 32
    again.forget(first)
    end(again)
    assert not Jobs(tmp_path / "jobs").any_open()


def test_of_jobs_that_are_over_so_many_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(elsewhere_jobs, "KEPT", 2)
    jobs = Jobs(tmp_path)
    jobs.keep(Sent("a", created=0.0))
    for number in range(4):
        jobs.keep(Sent(str(number), created=1.0 + number), state="completed")
    end(jobs)
    assert [sent.job_id for sent in jobs.all()] == ["a", "2", "3"] == [sent.job_id for sent in Jobs(tmp_path).all()]


def test_two_comfyuis_over_one_user_folder_are_two_clients(tmp_path):
    """Also where both started before there was a folder; what one of them left, the next that starts takes over."""
    first, second = Jobs(tmp_path / "jobs"), Jobs(tmp_path / "jobs")
    first.keep(Sent("1"))
    second.keep(Sent("2"))
    third = Jobs(tmp_path / "jobs")
    assert [[sent.job_id for sent in jobs.all()] for jobs in (first, second, third)] == [["1"], ["2"], []]
    assert len({jobs.client() for jobs in (first, second, third)}) == 3
    name = first.client()
    for jobs in (first, second, third):
        end(jobs)
    again = Jobs(tmp_path / "jobs")
    assert again.client() == name and {sent.job_id for sent in again.all()} == {"1", "2"}
    end(again)
    assert {sent.job_id for sent in Jobs(tmp_path / "jobs").all()} == {"1", "2"}


def test_a_node_that_is_given_a_list_shows_all_of_its_jobs(tmp_path):
    jobs = Jobs(tmp_path)
    for number in range(2):
        jobs.keep(Sent(str(number), "p", "1"), ui={"images": [{"filename": f"{number}.mp4"}], "animated": [True]})
    jobs.keep(Sent("2", "p", "1"))
    jobs.keep(Sent("3", "p", "2"), ui={"images": [{"filename": "another's"}], "animated": [True]})
    shown = output_of(jobs.of_node("p", "1"))
    assert [image["filename"] for image in shown["images"]] == ["0.mp4", "1.mp4"] and len(shown[OUTPUT]) == 3


def test_a_node_whose_job_failed_runs_again_once(tmp_path):
    """What ComfyUI asks before it answers out of its cache."""
    jobs = Jobs(tmp_path)
    asked = [jobs.without_video("9")]
    for number, state in enumerate(("completed", "failed", "queued", "completed", "cancelled")):
        jobs.keep(Sent(str(number), "p", "9", created=float(number)), state=state)
        jobs.keep(Sent(f"another's {number}", "p", "8", created=float(number)), state="failed")
        asked.append(jobs.without_video("9"))
    assert asked == [None, None, "1", "1", "1", "4"]


@pytest.fixture
def sender(tmp_path, monkeypatch):
    """A collector and the answers of its farm: whether it took a job, or what it raised."""
    collector, answers = Collector(Jobs(tmp_path / "jobs")), []

    def answer(sent, parcel):
        found = answers.pop(0)
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(elsewhere_collector, "why_no_farm", lambda: None)
    monkeypatch.setattr(collector, "_start", lambda: None)
    monkeypatch.setattr(collector, "_cancel", lambda job_id: None)
    monkeypatch.setattr(collector, "_run", lambda doing: None)
    monkeypatch.setattr(collector, "_reached", lambda: None)
    monkeypatch.setattr(collector, "_submit", answer)
    monkeypatch.setattr(collector, "_wait", lambda answered: answered)
    return collector, answers


def test_a_prompt_id_that_is_used_again_is_another_job(sender):
    """Here in this run of ComfyUI; and in one whose notes are lost, which the farm tells."""
    collector, answers = sender
    answers += [True, False, True]
    first, second = Sent("", "prompt", "9"), Sent("", "prompt", "9")
    collector.send(first, contextlib.nullcontext)
    collector.send(second, contextlib.nullcontext)
    assert (first.job_id, second.job_id) == (ID, job_id("prompt", "9", 2))
    assert {sent.job_id for sent in collector.jobs.all()} == {first.job_id, second.job_id}


@pytest.mark.parametrize("decoder", ["auto", "exact"])
def test_what_was_decoded_here_leaves_once_it_can(sender, monkeypatch, decoder):
    """What ComfyUI asks before it answers out of its cache: another answer is a node that runs again."""
    collector, answers = sender
    is_there, asked = False, []

    def ask(*what):
        asked.append(what)
        if not is_there:
            raise Unreachable("nobody is there")

    monkeypatch.setattr(collector, "_reached" if decoder == "auto" else "_found", ask)
    first, others = collector.fingerprint("9"), collector.fingerprint("8")
    assert not asked, "of a node that sent nothing no farm is asked"
    with pytest.raises(Unreachable):
        collector.send(Sent("", "prompt", "9"), contextlib.nullcontext, decoder)
    assert collector.fingerprint("9") == first, "nobody has come"
    is_there = True
    again = collector.fingerprint("9")
    assert again != first and collector.fingerprint("8") == others
    answers.append(True)
    collector.send(Sent("", "prompt", "9"), contextlib.nullcontext, decoder)
    asked.clear()
    assert collector.fingerprint("9") == again and not asked, "what left well is not sent twice"


@pytest.mark.parametrize(
    "error, said",
    [(NoFarm("it is gone"), "^it is gone$"), (InvalidJob("it is bad"), "^it is bad$"), (KeyError("x"), "KeyError")],
)
def test_what_goes_wrong_while_it_is_sent_is_said_as_a_reason(folders, error, said):
    class Refusing:
        is_connected = True

        async def submit(self, *args, **more):
            raise error

    collector = Collector(Jobs(folders / "jobs"))
    collector._client = Refusing()
    collector._client.broker = Refusing()
    parcel = elsewhere_collector.Parcel(Path("a"), Path("b"), None, {}, {})
    with pytest.raises(elsewhere_collector.Unreachable, match=said):
        asyncio.run(collector._submit(Sent(ID), parcel))


@pytest.mark.parametrize("error", [elsewhere_collector.Unreachable("it does not answer"), OSError("no space left")])
def test_what_was_not_sent_is_known_not_to_be_wanted_should_it_have_arrived(sender, error):
    collector, answers = sender
    answers.append(error)
    sent = Sent("", "prompt", "9", prefix="x")
    with pytest.raises(elsewhere_collector.Unreachable, match=str(error)):
        collector.send(sent, contextlib.nullcontext)
    assert (sent.job_id, sent.wanted) == (ID, False) and not collector.jobs.any_open()


def test_a_share_that_hangs_holds_no_prompt_up_for_ever(folders, monkeypatch):
    monkeypatch.setattr(elsewhere_collector, "SEND_SECONDS", 0)
    looks, back = iter(range(100)), threading.Event()
    monkeypatch.setattr(elsewhere_collector.lanes, "check_cancel", lambda: next(looks))
    collector, loop = Collector(Jobs(folders / "jobs")), asyncio.new_event_loop()
    monkeypatch.setattr(collector, "_loop", loop)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        loop.call_soon_threadsafe(back.wait)
        with pytest.raises(elsewhere_collector.Unreachable, match="does not answer"):
            collector._wait(asyncio.sleep(0))
    finally:
        back.set()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


# -- who collects ------------------------------------------------------------------------------------


def record(state=COMPLETED, **of_the_job):
    job = Job(
        ID,
        Vae("1" * 64, 1, "Wan 2.1"),
        Blob("2" * 64, 1536),
        Params((1, 16, 2, 3, 4)),
        **{"created": 0.0, **of_the_job},
    )
    result = Result(f"{ID}.7.1", "0" * 64, len(VIDEO), 5, 32, 24, 0.1) if state == COMPLETED else None
    return Record(job, state, attempt=1, worker="w", result=result, reason="it is bad" if state == FAILED else "")


class StandIn:
    """A client of a farm that has one job."""

    def __init__(self, folder, made):
        video = folder / "stored"
        video.write_bytes(VIDEO)
        if made is not None and made.result is not None:
            made = dataclasses.replace(made, result=dataclasses.replace(made.result, sha256=sha256_of(video)))
        self.now, self._video, self.cancelled, self.missing = made, video, [], False
        self.broker = self

    async def copy(self, record, target):
        if self.missing:
            raise Missing("there is no such video")
        shutil.copyfile(self._video, target)

    async def delivered(self, job_id):
        self.now = dataclasses.replace(self.now, delivered=1.0)

    async def record(self, job_id):
        return self.now

    async def cancel(self, job_id):
        if self.now.state not in ENDED:
            self.cancelled.append(job_id)
            self.now = dataclasses.replace(self.now, state=CANCELLED)
        return self.now

    async def latent(self, job_id, target):
        return elsewhere_files.write_latent(latents(), target)


def collected(folder, client):
    """A ComfyUI that starts, sees the record, and does what there is to do; its jobs."""

    async def see():
        collector = Collector(Jobs(folder / "jobs"))
        collector._see(client, client.now)
        try:
            while collector._tasks:
                for task in [*collector._tasks]:
                    await task
                await asyncio.sleep(0)
        finally:
            end(collector.jobs)
        return collector

    return asyncio.run(see())


def waiting(folder, **more):
    jobs = Jobs(folder / "jobs")
    jobs.keep(Sent(ID, "prompt", "9", "9", prefix="video/x"), **more)
    end(jobs)
    return jobs


def videos(folder, where="output"):
    return sorted(path.name for path in (folder / where).rglob("*") if path.is_file())


class Killed(BaseException):
    """What ends the process."""


# Everything that is done to deliver a video, in this order; each is killed before and after it.
STEPS = (
    (Unfinished, "adopt"),
    (StandIn, "copy"),
    (Unfinished, "publish"),
    (StandIn, "delivered"),
    (Jobs, "_write"),
)


@pytest.mark.parametrize("moment", range(14))
def test_killed_at_any_moment_there_is_one_file_after_the_restart(folders, moment):
    waiting(folders)
    client = StandIn(folders, record())
    moments = iter(range(100))

    unlink, killed = Path.unlink, []

    def pass_a_moment():
        if next(moments) == moment:
            killed.append(moment)  # from here on nothing is tidied up
            raise Killed

    def killed_around(step):
        def at_once(*args):
            pass_a_moment()
            result = step(*args)
            pass_a_moment()
            return result

        async def later(*args):
            pass_a_moment()
            result = await step(*args)
            pass_a_moment()
            return result

        return later if asyncio.iscoroutinefunction(step) else at_once

    with pytest.MonkeyPatch.context() as killing:
        killing.setattr(Path, "unlink", lambda path, missing_ok=False: None if killed else unlink(path, missing_ok))
        for owner, name in STEPS:
            killing.setattr(owner, name, killed_around(getattr(owner, name)))
        with pytest.raises(Killed):
            collected(folders, client)
    collector = collected(folders, client)
    assert videos(folders) == ["x_00001_.mp4"]
    assert (folders / "output" / "video" / "x_00001_.mp4").read_bytes() == VIDEO
    sent = collector.jobs.get(ID)
    assert sent.state == "completed" and sent.path.endswith("x_00001_.mp4") and client.now.delivered
    assert sent.ui["images"] == [{"filename": "x_00001_.mp4", "subfolder": "video", "type": "output"}]


def test_what_is_there_is_not_written_over_nor_taken_for_the_video(folders):
    """A file of the same size under the name that was to be published: somebody else's."""
    (folders / "output" / "video").mkdir()
    others = folders / "output" / "video" / "x_00001_.mp4"
    others.write_bytes(b"x" * len(VIDEO))
    waiting(folders, unfinished=str(others.with_name(f".{ID}.part")), publishing=True)
    collected(folders, StandIn(folders, record()))
    assert videos(folders) == ["x_00001_.mp4", "x_00002_.mp4"] and others.read_bytes() == b"x" * len(VIDEO)


def test_a_full_disk_is_tried_again_and_the_node_says_so(folders, monkeypatch):
    monkeypatch.setattr(elsewhere_collector, "DISK_AGAIN_SECONDS", 0)
    adopt, reasons = Unfinished.adopt, []
    waiting(folders)

    def full_once(self, path):
        reasons.append(json.loads((folders / "jobs" / f"{ID}.json").read_text())["reason"])
        if len(reasons) == 1:
            raise OSError(28, "No space left on device")
        adopt(self, path)

    monkeypatch.setattr(Unfinished, "adopt", full_once)
    collector = collected(folders, StandIn(folders, record()))
    assert reasons[0] is None and "No space left" in reasons[1]
    assert collector.jobs.get(ID).reason is None and videos(folders) == ["x_00001_.mp4"]


def test_a_file_of_a_run_that_had_another_output_folder_is_noted_and_not_shown(folders):
    (folders / "old").mkdir()
    client = StandIn(folders, record())
    shutil.copyfile(folders / "stored", folders / "old" / "x_00001_.mp4")
    waiting(folders, unfinished=str(folders / "old" / f".{ID}.part"), publishing=True)
    sent = collected(folders, client).jobs.get(ID)
    assert (sent.state, sent.path, sent.ui) == ("completed", str(folders / "old" / "x_00001_.mp4"), None)


def test_a_note_that_was_lost_costs_the_page_and_not_the_video(folders):
    mine = Jobs(folders / "jobs").client()
    made = record(client=Client(mine, "prompt", "9"), name_prefix="video/x")
    collector = collected(folders, StandIn(folders, made))
    assert videos(folders) == ["x_00001_.mp4"] and collector.jobs.get(ID).node_id == "9"


@pytest.mark.parametrize("made", [record(client=Client("another")), record(client=Client("", "prompt", "9"))])
def test_jobs_of_others_are_theirs(folders, made):
    assert collected(folders, StandIn(folders, made)).jobs.all() == [] and videos(folders) == []


@pytest.mark.parametrize("how", ["failed", "its video is gone"])
def test_what_gives_no_video_says_why_and_leaves_the_latents_once(folders, how):
    waiting(folders)
    client = StandIn(folders, record(FAILED if how == "failed" else COMPLETED))
    client.missing = True
    for _ in range(2):
        sent = collected(folders, client).jobs.get(ID)
    assert sent.state == "failed" and ("it is bad" if how == "failed" else "no such video") in sent.reason
    [path] = (folders / "input").iterdir()
    assert path.name in sent.reason and videos(folders) == []
    with safetensors.safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("latent_tensor"), latents()["samples"])


def test_a_job_that_failed_and_is_retried_is_waited_for_again(folders):
    waiting(folders, state="failed", reason="it is bad")
    assert collected(folders, StandIn(folders, record(IN_PROGRESS))).jobs.get(ID).is_open
    assert collected(folders, StandIn(folders, record())).jobs.get(ID).state == "completed"
    assert videos(folders) == ["x_00001_.mp4"]


@pytest.mark.parametrize("state, cancels", [(QUEUED, [ID]), (IN_PROGRESS, [ID]), (COMPLETED, []), (FAILED, [])])
def test_what_was_decoded_here_meanwhile_is_not_decoded_there_too(folders, state, cancels):
    """The farm had the job, and the answer was lost. Also once it is forgotten here, as there are many others."""
    mine = waiting(folders, state="here", wanted=False).client()
    client = StandIn(folders, record(state, client=Client(mine, "prompt", "9")))
    collector = collected(folders, client)
    collector.jobs.forget(collector.jobs.get(ID))
    collected(folders, client)
    assert client.cancelled == cancels and videos(folders) == [] == videos(folders, "input")


@pytest.mark.parametrize("state", [QUEUED, IN_PROGRESS, FAILED, CANCELLED])
def test_what_was_cancelled_here_and_is_retried_there_comes(folders, state):
    """Its node was interrupted, so the video goes into the output folder."""
    mine = waiting(folders, state="cancelled", wanted=False, prefix=None).client()
    client = StandIn(folders, record(state, client=Client(mine, "prompt", "9"), name_prefix="x"))
    collected(folders, client)
    cancels = list(client.cancelled)
    client.now = dataclasses.replace(client.now, state=QUEUED, round=2, delivered=0.0)
    assert collected(folders, client).jobs.get(ID).state == "queued" and client.cancelled == cancels
    again = StandIn(folders, dataclasses.replace(record(), round=2))
    assert collected(folders, again).jobs.get(ID).state == "completed"
    assert videos(folders) == ["x_00001_.mp4"] and again.now.delivered


def test_what_the_farm_told_before_it_heard_of_the_cancel_is_no_retry(folders, monkeypatch):
    mine = waiting(folders).client()
    client = StandIn(folders, record(QUEUED, client=Client(mine, "prompt", "9")))
    collector, before = Collector(Jobs(folders / "jobs")), client.now
    sent = collector.jobs.get(ID)

    async def reached():
        return client

    async def cancel():
        collector.jobs.keep(sent, state="cancelled", wanted=False)
        await collector._cancel(ID)
        collector._see(client, before)
        assert not collector._tasks and (sent.state, client.now.state) == ("cancelled", CANCELLED)
        collector._see(client, dataclasses.replace(before, round=2))
        assert not collector._tasks and sent.is_open

    monkeypatch.setattr(collector, "_reached", reached)
    asyncio.run(cancel())
    end(collector.jobs)


@pytest.mark.parametrize(
    "prefix, made, state, cancels",
    [
        ("video/x", None, "failed", []),
        ("video/x", record(QUEUED), "queued", []),
        (None, record(QUEUED, client=Client("another")), None, []),
        (None, record(QUEUED), None, [ID]),
        (None, record(COMPLETED), None, []),
    ],
    ids=["killed before it was sent", "waits", "another's that a node collected", "a node waited", "for what is done"],
)
def test_jobs_that_an_earlier_run_left(folders, prefix, made, state, cancels):
    jobs = waiting(folders, prefix=prefix)
    if made is not None and not made.job.client.id:
        made = dataclasses.replace(made, job=dataclasses.replace(made.job, client=Client(jobs.client())))
    client, collector = StandIn(folders, made), Collector(Jobs(folders / "jobs"))
    asyncio.run(collector._look_after(client, collector.jobs.get(ID)))
    end(collector.jobs)
    left = Jobs(folders / "jobs").get(ID)
    assert (left and left.state) == state and client.cancelled == cancels
    if made is not None and made.result is not None:
        assert collected(folders, client).jobs.all() == [] and videos(folders) == []


def test_who_waits_with_no_worker_there_says_so(folders, monkeypatch):
    monkeypatch.setattr(elsewhere_collector, "ASK_SECONDS", 0)
    waiting(folders)
    answers, reasons = [[], [{"worker": "w"}]], []
    collector = Collector(Jobs(folders / "jobs"))

    class Asked(StandIn):
        is_connected = True

        async def ask_all(self, subject, wait_seconds):
            reasons.append(collector.jobs.get(ID).reason)
            if not answers:
                raise asyncio.CancelledError
            return answers.pop(0)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(collector._keep_asking(Asked(folders, None)))
    assert reasons == [None, elsewhere_collector.NOBODY, None]


def test_what_is_told_is_not_remembered_longer_than_the_job(folders):
    waiting(folders)
    collector = Collector(Jobs(folders / "jobs"))
    collector._tell()
    assert [*collector._told] == [ID]
    collector.jobs.forget(collector.jobs.get(ID))
    collector._tell()
    assert not collector._told


def test_a_slow_disk_does_not_hold_up_who_only_asks(tmp_path, monkeypatch):
    """ComfyUI's own loop among them."""
    jobs, told = Jobs(tmp_path), []

    def slow(self, path, text):
        asking = threading.Thread(target=lambda: told.extend(jobs.told()), daemon=True)
        asking.start()
        asking.join(20)

    monkeypatch.setattr(Jobs, "_write", slow)
    jobs.keep(Sent(ID))
    assert [each["job_id"] for each in told] == [ID]


def test_a_farm_that_stays_away_is_looked_for_anew(folders, monkeypatch):
    """It may have come back under another address, which is read then."""
    monkeypatch.setattr(elsewhere_collector, "AWAY_SECONDS", 0)

    class Away(StandIn):
        is_connected = False

        async def hear(self, subject, callback):
            return self

        async def watch(self, job_id, gone):
            await asyncio.Event().wait()
            yield

    with pytest.raises(NoFarm, match="does not answer"):
        asyncio.run(asyncio.wait_for(Collector(Jobs(folders / "jobs"))._follow(Away(folders, None)), 20))


def test_nothing_is_started_where_nothing_was_sent(folders, monkeypatch):
    monkeypatch.setenv("AFP_FARM", "nats://token@127.0.0.1:1")
    collector = Collector(Jobs(folders / "jobs"))
    collector.resume()
    assert collector._loop is None and not (folders / "jobs").exists()
    waiting(folders, state="completed")
    collector = Collector(Jobs(folders / "jobs"))
    collector.resume()
    assert collector._loop is None


def test_the_first_digits_of_an_id_suffice(folders, monkeypatch):
    one, other = record(), dataclasses.replace(record(), job=dataclasses.replace(record().job, id="4d" + "0" * 30))

    class Two(StandIn):
        async def records(self):
            return [one, other]

    collector = Collector(Jobs(folders / "jobs"))

    async def reached():
        return Two(folders, one)

    monkeypatch.setattr(collector, "_reached", reached)
    assert asyncio.run(collector._whole(ID[:12])) == ID
    with pytest.raises(ValueError, match="no job 'ff'"):
        asyncio.run(collector._whole("ff"))
    with pytest.raises(ValueError, match="more than one job '4d'"):
        asyncio.run(collector._whole("4d"))
    with pytest.raises(ValueError, match="no id was given"):
        collector.adopt("")
