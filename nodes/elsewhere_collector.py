"""Sends jobs to a farm and collects what comes back: one thread, which uses no GPU, beside the prompts.

It is started by the first job that is sent, or with ComfyUI where jobs of an earlier run are open; before that nothing
of `farm` is imported. From then on it follows the farm's records:

    queued, in progress   the page is told how far it is
    completed             the file is fetched under a name for unfinished ones, then has its own, then the record says
                          that it is delivered; last it is shown in the node and in the history
    failed                the latents are fetched as a rescued file, and the page is told why

What was done is written down before the next step, so that after a kill at any moment there is one file, whole.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import glob
import importlib.util
import itertools
import logging
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors

from ..pipeline.sinks.unfinished import Numbered, Unfinished
from ..pipeline.text import Text
from . import rescue
from .comfyui import lanes, late, server
from .elsewhere_jobs import EVENT, Jobs, Sent, output_of
from .log import say

REQUIREMENTS = Path(__file__).resolve().parent.parent / "farm" / "requirements.txt"
# For a farm to answer; one that is there does so at once.
PATIENCE_SECONDS = 2.0
# Between two tries to connect, and to write a file where the disk is full.
AGAIN_SECONDS, DISK_AGAIN_SECONDS = 5.0, 30.0
# One that does not come back for so long may be elsewhere by now.
AWAY_SECONDS = 10.0
# For which a prompt waits while its job is sent: a VAE of 2.8 GB takes 230 s over 100 Mbit/s. What takes longer hangs,
# such as a share that is gone, and the next prompts wait for AWAY_SECONDS, until a job arrives.
SEND_SECONDS = 300.0
# How often the page is told; and how often workers are asked whether there are any, and for how long.
TELL_SECONDS = 0.5
ASK_SECONDS, ANSWER_SECONDS = 10.0, 2.0
# Asked by each prompt again.
SHORT_ANSWER_SECONDS = 0.3
NOBODY = "no worker is there: start one, with `python -m farm worker`, or `up` with --gpus"
LOOK_SECONDS = 0.05
ID_DIGITS = 32
# A farm keeps nothing longer.
FORGET_SECONDS = 8 * 86400.0
T = TypeVar("T")


class Unreachable(RuntimeError):
    """There is no farm that could take a job now, or it refuses this one.

    Attributes:
        reason: as text that can be said in other languages.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a job is made of.

    Args:
        latent, vae, sound: files.
        params, more: of `farm.client.Client.submit`.
    """

    latent: Path
    vae: Path
    sound: Path | None
    params: dict
    more: dict


def why_no_farm() -> str | None:
    """Why nothing can be sent, as far as one knows without asking; None if there is a farm to ask."""
    from ..farm.settings import NoFarm, address

    try:
        address()
    except NoFarm as error:
        return str(error)
    if importlib.util.find_spec("nats") is None:
        command = f'"{sys.executable}" -m pip install -r "{REQUIREMENTS}"'
        return Text("a farm needs nats-py; to install it: %command%", command=command)
    return None


class Collector:
    """Args:
    jobs: of this ComfyUI.
    """

    def __init__(self, jobs: Jobs):
        self.jobs = jobs
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()
        self._client = None
        self._why = ""
        self._was_away = False
        self._patience = SEND_SECONDS
        self._wanted = asyncio.Event()
        # By id, of all jobs that wait, anybody's: what they are ordered by.
        self._queue: dict[str, tuple] = {}
        self._at_work: set[str] = set()
        self._told = {sent.job_id: sent.told() for sent in jobs.all() if not sent.is_open}
        # Jobs whose videos are there, and are not shown yet, or not in the history.
        self._to_show: dict[str, bool] = {}
        # By node: the decoder that nobody had when its latents were to leave; and how often somebody came after that.
        self._missed: dict[str, str] = {}
        self._came: Counter[str] = Counter()
        self._tasks: set[asyncio.Task] = set()
        self._telling: asyncio.Task | None = None

    # -- from other threads ---------------------------------------------------------------------------

    def resume(self) -> None:
        """Start if jobs of an earlier run are open, and there is a farm to ask for them."""
        old = [sent for sent in self.jobs.all() if sent.is_open and time.time() - sent.created > FORGET_SECONDS]
        for sent in old:
            self.jobs.forget(sent)
        if self.jobs.any_open() and why_no_farm() is None:
            self._start()

    def send(
        self, sent: Sent, pack: Callable[[], contextlib.AbstractContextManager[Parcel]], decoder: str = "auto"
    ) -> None:
        """Queue a job, whose id it gives; returns when the farm has it.

        Args:
            pack: gives what to send, if there is a farm that answers.
            decoder: that a worker has to have; see `_look_for`.
        Raises:
            Unreachable: it cannot be sent.
        """
        self._missed[sent.node_id] = decoder
        self._look_for(decoder, ANSWER_SECONDS)
        del self._missed[sent.node_id]
        from ..farm.messages import job_id

        try:
            with pack() as parcel:
                # The same run of a node is the same job: nothing that goes wrong on the way makes two of it. Clients
                # may use a prompt's id again, and a node that is given a list runs for each thing in it: other jobs.
                ids = (job_id(sent.prompt_id, sent.node_id, run) for run in itertools.count())
                while not self._sent_as(sent, next(each for each in ids if self.jobs.get(each) is None), parcel):
                    pass
        except OSError as error:  # no room for its files
            raise Unreachable(f"{type(error).__name__}: {error}") from error

    def _sent_as(self, sent: Sent, job_id: str, parcel: Parcel) -> bool:
        """False where the farm knows another job of this id."""
        self.jobs.keep(sent, job_id=job_id, state="queued")
        try:
            if self._wait(self._submit(sent, parcel)):
                self._patience = SEND_SECONDS
                return True
        except BaseException:
            self.cancel(sent)  # should it have arrived all the same
            raise
        self.jobs.forget(sent)
        return False

    def fingerprint(self, node_id: str) -> str:
        """By which ComfyUI sees whether a node has to run again: another one where its last job gave no video, and
        where its latents could not leave and now they can.
        """
        if node_id in self._missed:
            with contextlib.suppress(Unreachable):
                self._look_for(self._missed[node_id], SHORT_ANSWER_SECONDS)
                del self._missed[node_id]
                self._came[node_id] += 1
        return f"{self.jobs.without_video(node_id)} {self._came[node_id]}"

    def _look_for(self, decoder: str, wait_seconds: float) -> None:
        """Raises:
        Unreachable: there is no farm, or no worker that has that decoder; for "auto" none has to be there yet.
        """
        self._asked(self._reached() if decoder == "auto" else self._found(decoder, wait_seconds))

    def adopt(self, job_id: str) -> Sent:
        """A job that a node waits for, whoever sent it.

        Args:
            job_id: or its first digits, as `farm jobs` shows them.
        Raises:
            Unreachable: there is no farm to ask.
            ValueError: there is no such job, or more than one.
        """
        if not job_id:
            raise ValueError("no id was given; Save Video (Decode Elsewhere) gives one, and `python -m farm jobs`")
        if len(job_id) < ID_DIGITS:
            job_id = self._asked(self._whole(job_id))
        sent = self.jobs.get(job_id)
        if sent is not None:
            if sent.is_open:
                self._start()
            sent.is_earlier = False
            if sent.prefix is not None or sent.is_open or Path(sent.path).is_file():
                return sent
            self.jobs.forget(sent)  # a file for a node that waited, which is gone with the temp folder
        return self._asked(self._adopted(job_id))

    def _asked(self, question: Coroutine[Any, Any, T]) -> T:
        """Raises:
        Unreachable: there is no farm to ask, or it does not answer.
        """
        reason = why_no_farm()
        if reason is not None:
            question.close()
            raise Unreachable(reason)
        from ..farm.settings import NoFarm

        self._start()
        try:
            return self._wait(question)
        except NoFarm as error:
            raise Unreachable(str(error)) from error

    def cancel(self, sent: Sent) -> None:
        """Nobody wants it any more, also where that can be said only later; does not wait."""
        self.jobs.keep(sent, state="cancelled", wanted=False)
        self._run(self._cancel(sent.job_id))

    async def cancel_open(self, job_id: str) -> bool:
        """Cancel a job, in any loop; whether there is one to cancel.

        Raises:
            Unreachable: the farm cannot be told now.
        """
        sent = self.jobs.get(job_id)
        if sent is None or not sent.is_open:
            return False
        self._start()
        await asyncio.wrap_future(self._run(self._cancel(job_id)))
        return True

    def _start(self) -> None:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(target=self._live, name="async-frame-pipeline-collector", daemon=True)
                thread.start()

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._collect())

    def _run(self, doing: Awaitable[T]):
        return asyncio.run_coroutine_threadsafe(doing, self._loop)

    def _wait(self, doing: Awaitable[T]) -> T:
        """For what is to be done on the loop; an interrupted prompt waits no longer.

        Raises:
            Unreachable: it takes too long, whatever holds it up, the loop itself included.
        """
        future, deadline = self._run(doing), time.monotonic() + self._patience
        try:
            while not future.done():
                concurrent.futures.wait([future], LOOK_SECONDS)
                lanes.check_cancel()
                if time.monotonic() > deadline and not future.done():
                    self._patience = AWAY_SECONDS
                    raise Unreachable(Text("the farm does not answer"))
        except BaseException:
            future.cancel()
            raise
        return future.result()

    # -- on the loop ------------------------------------------------------------------------------------

    async def _collect(self) -> None:
        """Connect, and follow the records, for ever."""
        from ..farm.client import farm
        from ..farm.settings import NoFarm

        self._telling = asyncio.ensure_future(self._keep_telling())
        while True:
            try:
                async with farm(patience=PATIENCE_SECONDS) as client:
                    self._client, self._why = client, ""
                    await self._follow(client)
            except NoFarm as error:
                self._why = error.args[0]
            except Exception as error:
                self._why = f"{type(error).__name__}: {error}"
                say(f"the farm cannot be followed, once more in a moment: {self._why}", logging.WARNING)
            finally:
                self._client = None
            self._wanted.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), AGAIN_SECONDS)

    async def _reached(self):
        """A client whose broker answers.

        Raises:
            Unreachable: there is none.
        """
        self._why = ""
        self._wanted.set()
        # One that was not there the last time is not waited for by each prompt anew.
        deadline = time.monotonic() + (LOOK_SECONDS if self._was_away else PATIENCE_SECONDS + 1)
        while self._client is None or not self._client.broker.is_connected:
            if self._why or time.monotonic() > deadline:
                self._was_away = True
                raise Unreachable(self._why or Text("the farm does not answer"))
            await asyncio.sleep(LOOK_SECONDS)
        self._was_away = False
        return self._client

    async def _found(self, decoder: str, wait_seconds: float = ANSWER_SECONDS) -> None:
        """Raises:
        Unreachable: no worker has that decoder.
        """
        client = await self._reached()

        def has(worker: dict) -> bool:
            decoders = worker.get("decoders")
            return isinstance(decoders, list) and decoder in decoders

        if not any(map(has, await client.broker.ask_all("workers.ask", wait_seconds, until=has))):
            raise Unreachable(
                Text("this VAE needs a worker with a ComfyUI, and the farm has none: start one with --comfyui")
            )

    async def _submit(self, sent: Sent, parcel: Parcel) -> bool:
        """False where the farm knows another job of this id."""
        from ..farm.broker import Full
        from ..farm.messages import Client, InvalidJob
        from ..farm.settings import NoFarm

        client = await self._reached()
        submitting = asyncio.ensure_future(
            client.submit(
                parcel.latent,
                parcel.vae,
                audio=parcel.sound,
                job_id=sent.job_id,
                created=sent.created,
                params=parcel.params,
                user=self.jobs.client(),
                client=Client(self.jobs.client(), sent.prompt_id, sent.node_id),
                **parcel.more,
            )
        )
        try:
            since = time.monotonic()
            while not submitting.done():
                await asyncio.wait({submitting}, timeout=LOOK_SECONDS)
                since = time.monotonic() if client.broker.is_connected else since
                if time.monotonic() - since > PATIENCE_SECONDS:
                    raise Unreachable(Text("the farm does not answer"))
            record = submitting.result()
        except Unreachable:
            raise
        except (Full, InvalidJob, NoFarm) as error:
            raise Unreachable(str(error)) from error
        except Exception as error:  # such as a disk that is full, here or there
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        finally:
            submitting.cancel()
        if record.job.created != sent.created:
            return False
        self._see(client, record)
        return True

    async def _whole(self, digits: str) -> str:
        client = await self._reached()
        found = [each.id for each in await client.broker.records() if each.id.startswith(digits)]
        if len(found) != 1:
            raise ValueError(f"the farm has {'more than one' if found else 'no'} job {digits!r}")
        return found[0]

    async def _adopted(self, job_id: str) -> Sent:
        from ..farm.messages import InvalidJob

        client = await self._reached()
        try:
            record = await client.broker.record(job_id)
        except InvalidJob:
            record = None
        if record is None:
            raise ValueError(f"the farm has no job {job_id!r}")
        sent = self.jobs.keep(Sent(job_id))
        self._see(client, record)
        return sent

    async def _cancel(self, job_id: str) -> None:
        from ..farm.messages import CANCELLED

        client = await self._reached()
        record = await client.broker.cancel(job_id)
        if record is not None and record.state == CANCELLED:
            self._give_up(record)

    async def _follow(self, client) -> None:
        """All records, now and as they change.

        Raises:
            NoFarm: it has been away for a while; its address may be another one now.
        """
        from ..farm.settings import NoFarm

        watching, since = asyncio.ensure_future(self._watch(client)), time.monotonic()
        asking = asyncio.ensure_future(self._keep_asking(client))
        try:
            while not watching.done():
                await asyncio.wait({watching}, timeout=TELL_SECONDS)
                since = time.monotonic() if client.broker.is_connected else since
                if time.monotonic() - since > AWAY_SECONDS:
                    raise NoFarm(Text("the farm does not answer"))
            watching.result()
        finally:
            watching.cancel()
            asking.cancel()

    async def _watch(self, client) -> None:
        for sent in self.jobs.all():
            if sent.is_open and sent.is_earlier:
                await self._look_after(client, sent)
        self._queue.clear()
        listening = await client.broker.hear("progress.*", self._progress)
        try:
            async for record in client.broker.watch(">", gone=lambda job_id: self._queue.pop(job_id, None)):
                self._see(client, record)
        finally:
            with contextlib.suppress(Exception):
                await listening.unsubscribe()

    async def _keep_asking(self, client) -> None:
        """Whether there is any worker, for as long as jobs wait; where there is none, they say so."""
        while True:
            await asyncio.sleep(ASK_SECONDS)
            if client.broker.is_connected and any(sent.state == "queued" for sent in self.jobs.all()):
                with contextlib.suppress(Exception):
                    is_there = bool(await client.broker.ask_all("workers.ask", ANSWER_SECONDS))
                    for sent in self.jobs.all():
                        if sent.state == "queued" and sent.reason in (None, NOBODY):
                            sent.reason = None if is_there else NOBODY

    async def _look_after(self, client, sent: Sent) -> None:
        """A job of an earlier run."""
        record = await client.broker.record(sent.job_id)
        if sent.prefix is None:  # a node waited for it, in a prompt that ended with its ComfyUI
            if record is not None and record.job.client.id == self.jobs.client():
                await self._turn_down(client, sent.job_id)
            self.jobs.forget(sent)
        elif record is None:
            self.jobs.keep(sent, state="failed", reason="ComfyUI ended before the farm had the job")

    async def _turn_down(self, client, job_id: str) -> None:
        """A job that nobody waits for: it ends, and no later run collects it."""
        from ..farm.messages import CANCELLED

        record = await client.broker.cancel(job_id)
        if record is not None:
            if record.state != CANCELLED:  # it ended before
                await client.delivered(job_id)
            self._give_up(record)

    def _give_up(self, record) -> None:
        """Note that the farm knows that a job is not wanted, if it is not."""
        sent = self.jobs.get(record.id)
        if sent is not None and not sent.wanted and sent.given_up != record.round:
            self.jobs.keep(sent, given_up=record.round)

    def _see(self, client, record) -> None:
        """A record as it is now."""
        from ..farm.messages import CANCELLED, COMPLETED, ENDED, FAILED, PRIORITIES, QUEUED

        if record.state == QUEUED:
            self._queue[record.id] = (PRIORITIES.index(record.job.priority), record.queued, record.id)
        else:
            self._queue.pop(record.id, None)
        sent = self.jobs.get(record.id)
        if sent is None:
            if record.job.client.id != self.jobs.client() or record.delivered or record.state == CANCELLED:
                return
            # Sent by a run of this ComfyUI whose notes are lost.
            who = record.job.client
            sent = self.jobs.keep(Sent(record.id, who.prompt_id, who.node_id, prefix=record.job.name_prefix))
        if record.id in self._at_work:
            return
        is_given_up = record.state == CANCELLED or bool(record.delivered)
        if not sent.wanted and not is_given_up and 0 < sent.given_up < record.round:
            # `farm retry`: somebody wants it again, and no node waits for it any more.
            self.jobs.keep(sent, wanted=True, prefix=sent.prefix or record.job.name_prefix)
        if sent.state == "completed":
            if not record.delivered:  # this ComfyUI ended before it could say so
                self._begin(record.id, client.delivered(record.id))
        elif not sent.wanted:
            if is_given_up:
                self._give_up(record)
            elif not sent.given_up:
                self._begin(record.id, self._turn_down(client, record.id))
        elif sent.state == record.state in ENDED:
            return
        elif record.state == COMPLETED:
            self._begin(record.id, self._deliver(client, sent, record))
        elif record.state == FAILED:
            self._begin(record.id, self._lost(client, sent, record.reason))
        elif (record.state, record.reason or None) != (sent.state, sent.reason):
            self.jobs.keep(sent, state=record.state, reason=record.reason or None)
            if record.state == CANCELLED:
                self._to_show[sent.job_id] = False

    def _begin(self, job_id: str, doing: Awaitable[None]) -> None:
        """One thing at a time for each job."""
        self._at_work.add(job_id)
        task = asyncio.ensure_future(doing)
        self._tasks.add(task)

        def done(task: asyncio.Task) -> None:
            self._tasks.discard(task)
            self._at_work.discard(job_id)
            if not task.cancelled() and task.exception() is not None:
                say(f"the job {job_id} cannot be collected yet: {task.exception()}", logging.WARNING)
                again = asyncio.ensure_future(self._look_again(job_id))
                self._tasks.add(again)
                again.add_done_callback(self._tasks.discard)

        task.add_done_callback(done)

    async def _look_again(self, job_id: str) -> None:
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            with contextlib.suppress(Exception):
                client = await self._reached()
                record = await client.broker.record(job_id)
                if record is not None:
                    self._see(client, record)
                return

    async def _progress(self, values: dict) -> None:
        sent = self.jobs.get(str(values.get("id")))
        if sent is not None and sent.is_open:
            sent.frames, sent.total = values["frames"], values["total"]
            sent.seconds_left = values.get("seconds_left")

    # -- what came back ---------------------------------------------------------------------------------

    async def _deliver(self, client, sent: Sent, record) -> None:
        from ..farm.messages import InvalidJob

        result = record.result
        while True:
            try:
                path = await asyncio.to_thread(self._left_behind, sent, result, record.job.params.output_type)
                if path is None:
                    path = await self._fetched(client, sent, record)
                break
            except InvalidJob as error:
                await self._lost(client, sent, f"the video: {error}")
                return
            except (OSError, ValueError) as error:  # a full disk; a prefix that this ComfyUI refuses by now
                say(f"the video of the job {sent.job_id} cannot be written: {error}", logging.WARNING)
                self.jobs.keep(sent, reason=str(error))
                await asyncio.sleep(DISK_AGAIN_SECONDS)
        ui = None
        if sent.prefix is not None:
            with contextlib.suppress(ValueError):  # of an earlier run that had another output folder: no page shows it
                output = os.path.abspath(server.output_folder())
                subfolder = Path(os.path.abspath(path.parent)).relative_to(output).as_posix()
                image = {"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": "output"}
                ui = {"images": [image], "animated": [True]}
            say(f"saved {path}: {result.width}x{result.height}, {result.frames} frames, decoded by {record.worker}")
        self.jobs.keep(
            sent,
            state="completed",
            reason=None,
            frames=result.frames,
            total=result.frames,
            unfinished="",
            publishing=False,
            path=str(path),
            ui=ui,
        )
        self._to_show[sent.job_id] = False
        self._tell()
        await client.delivered(sent.job_id)

    async def _fetched(self, client, sent: Sent, record) -> Path:
        result, root = record.result, server.output_folder()
        if sent.prefix is None:
            root = server.temp_folder()
        prefix = sent.prefix or f"elsewhere_{sent.job_id}"
        folder, name, number, _ = server.output_names(prefix, result.width, result.height, root)
        # Of a name that is nobody else's, so that it can be told and removed after a kill.
        unfinished = Path(folder) / f".{sent.job_id}.part"
        self.jobs.keep(sent, unfinished=str(unfinished), publishing=False)
        try:
            await client.copy(record, unfinished)
            self.jobs.keep(sent, publishing=True)
            target = Unfinished(Numbered(Path(folder), name, number, record.job.params.output_type))
            target.adopt(unfinished)
            return await asyncio.to_thread(target.publish)
        finally:
            unfinished.unlink(missing_ok=True)

    def _left_behind(self, sent: Sent, result, extension: str) -> Path | None:
        """The finished file of a ComfyUI that was killed before it could note it; what was unfinished goes."""
        from ..farm.blobs import sha256_of

        if not sent.unfinished:
            return None
        unfinished, found = Path(sent.unfinished), None
        if sent.publishing:
            others = {each.path for each in self.jobs.all()}
            for path in unfinished.parent.glob(f"*.{extension}"):
                if str(path) not in others and path.stat().st_size == result.bytes:
                    found = path if sha256_of(path) == result.sha256 else found
        for path in (unfinished, *unfinished.parent.glob(f".{glob.escape(unfinished.name)}.*.part")):
            path.unlink(missing_ok=True)
        return found

    async def _lost(self, client, sent: Sent, reason: str) -> None:
        """There will be no video: the latents come back, as of any decode that fails."""
        from ..farm.messages import InvalidJob

        with tempfile.TemporaryDirectory() as folder:
            try:
                latent = await client.latent(sent.job_id, Path(folder) / "a.latent")
                note = await asyncio.to_thread(rescue.rescue_file, latent)
            except (InvalidJob, OSError, safetensors.SafetensorError) as error:
                note = (
                    f"The latents cannot be saved here: {error}. The farm keeps them for some days, see `farm retry`."
                )
        say(f"the job {sent.job_id} failed: {reason}. {note}", logging.ERROR)
        self.jobs.keep(sent, state="failed", reason=f"{reason}\n\n{note}", unfinished="", publishing=False)
        self._to_show[sent.job_id] = False
        self._tell()
        await client.delivered(sent.job_id)

    # -- what is told -----------------------------------------------------------------------------------

    async def _keep_telling(self) -> None:
        while True:
            try:
                self._tell()
            except Exception as error:
                say(f"telling the page of jobs: {type(error).__name__}: {error}", logging.WARNING)
            await asyncio.sleep(TELL_SECONDS)

    def _tell(self) -> None:
        """Each page what is new of its jobs; and what became of them, where their nodes have ended."""
        order = {job_id: index for index, (*_, job_id) in enumerate(sorted(self._queue.values()))}
        before, self._told = self._told, {}
        for sent in self.jobs.all():
            sent.before = order.get(sent.job_id)
            self._told[sent.job_id] = told = sent.told()
            if before.get(sent.job_id) != told:
                late.tell(EVENT, told, sent.listener)
        for job_id, was_shown in list(self._to_show.items()):
            sent = self.jobs.get(job_id)
            if sent is None:
                self._to_show.pop(job_id)
                continue
            output = output_of(self.jobs.of_node(sent.prompt_id, sent.node_id))
            if not was_shown and late.has_passed(sent.prompt_id, sent.node_id):
                self._to_show[job_id] = True
                if sent.ui is not None:
                    display = sent.display_node or sent.node_id
                    late.show(sent.prompt_id, sent.node_id, display, output, sent.listener)
            if late.is_over(sent.prompt_id):
                late.add_to_history(sent.prompt_id, sent.node_id, output)
                self._to_show.pop(job_id)


@functools.cache
def collector() -> Collector:
    """The one of this ComfyUI."""
    return Collector(Jobs(late.user_folder() / "jobs"))
