"""Jobs in a queue that loses nothing: NATS JetStream.

The queue is a stream of ids, one subject for each class of memory, priority and user, and a consumer for each class and
priority. What is true of a job is in its record, in a key-value bucket; it changes by compare-and-set alone.

A submit first creates the record and then puts the id into the queue. Whoever dies in between leaves a record that is
queued and in no queue: submitting again, or `sweep.py`, puts it there, and the broker keeps one message of each round.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import nats
import nats.errors
import nats.js.errors
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from .messages import CANCELLED, CLASSES, ENDED, MOST_BYTES, PRIORITIES, QUEUED, InvalidJob, Job, Record, is_id
from .roles import inbox_of, role_of
from .settings import Address, NoFarm, Settings, Unfit

STREAM, RECORDS, FARM = "JOBS", "jobs", "farm"
# In which a message of the same id is the same message.
DUPLICATE_SECONDS = 24 * 3600.0
# How long one question to the broker waits for its answer, and how long questions are asked again: a broker that is
# started again is back long before.
ANSWER_SECONDS = 2.0
PATIENCE_SECONDS = 120.0
AGAIN_SECONDS = 0.1
# The broker's words for: there are as many messages as there may be, and: its share of the disk is used up. It says so
# as of something that passes.
FULL = (
    "maximum messages per subject exceeded",
    "maximum messages exceeded",
    "insufficient resources",
    "insufficient storage resources available",
)
# Before a class: the one that took a job wakes another one, who may take the next.
NEXT = "workers.next-"
T = TypeVar("T")
log = logging.getLogger("async-frame-pipeline.farm")


class Fenced(RuntimeError):
    """Somebody else changed the record.

    Attributes:
        record: as it is now; None where it is gone.
    """

    def __init__(self, record: Record | None):
        super().__init__("the record was changed by somebody else")
        self.record = record


class Full(RuntimeError):
    """The farm takes no more for now: the user has as many jobs open as it allows, or its disk is full."""


class Receipt:
    """An id out of the queue, leased.

    Attributes:
        id, round: which job.
        deliveries: how often it came out of the queue.
        message: its number in the queue.
        queued: when it came into the queue, in seconds since 1970, by the broker's clock.
    """

    def __init__(self, message):
        self._message = message
        values = json.loads(message.data)
        self.id, self.round = str(values["id"]), int(values["round"])
        self.deliveries = message.metadata.num_delivered
        self.message = message.metadata.sequence.stream
        self.queued = message.metadata.timestamp.timestamp()

    async def ack(self) -> None:
        """Take it out of the queue for good; asked for twice, it does no harm."""
        with contextlib.suppress(nats.errors.MsgAlreadyAckdError):
            await patiently(lambda: self._message.ack_sync(timeout=ANSWER_SECONDS))

    async def renew(self) -> bool:
        """Hold it for another lease; whether the broker said so."""
        try:
            await self._message._client.request(self._message.reply, b"+WPI", timeout=ANSWER_SECONDS)
            return True
        except (*_PASSING, nats.errors.Error):
            return False

    async def give_back(self, after_seconds: float = 0.0) -> None:
        """Into the queue again, for anybody."""
        with contextlib.suppress(*_PASSING, nats.errors.MsgAlreadyAckdError):
            await self._message.nak(delay=after_seconds or None)


class Broker:
    """A connection; made by `connect`."""

    def __init__(self, connection):
        self._nc = connection
        self.jetstream = connection.jetstream(timeout=ANSWER_SECONDS)
        self._published = asyncio.Event()
        self._listening: dict[str, list] = {}  # by class
        self._buckets: dict[str, object] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, address: Address, name: str = "", patience: float = 5.0) -> AsyncIterator[Broker]:
        """For the length of the block. Once connected, it comes back to a broker that was gone.

        Raises:
            NoFarm: nobody answers, or the token is wrong.
        """
        tls = _tls(address.ca) if address.url.startswith("tls:") else None
        if tls is not None:
            logging.getLogger("asyncio").addFilter(_is_worth_a_line)
        role = role_of(address.token)
        refused: asyncio.Future = asyncio.get_running_loop().create_future()
        last = None

        async def note(error: Exception) -> None:
            nonlocal last
            last = error
            # Otherwise what is not allowed looks like a broker that does not answer.
            log.log(logging.WARNING if "permissions violation" in str(error) else logging.DEBUG, "broker: %s", error)
            if "authorization" in str(error).lower() and not refused.done():
                refused.set_result(None)

        connecting = asyncio.ensure_future(
            nats.connect(
                address.url,
                user=role,
                password=address.token,
                inbox_prefix=inbox_of(role),
                name=name or None,
                tls=tls,
                max_reconnect_attempts=-1,
                reconnect_time_wait=AGAIN_SECONDS,
                connect_timeout=ANSWER_SECONDS,
                ping_interval=10,
                error_cb=note,
            )
        )
        await asyncio.wait({connecting, refused}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done() or connecting.exception() is not None:
            connecting.cancel()
            if refused.done():
                raise Unfit(f"{address.url} refuses the token")
            raise NoFarm(f"nobody answers at {address.url}: is the farm up? ({last or 'no answer'})")
        connection = connecting.result()
        try:
            yield cls(connection)
        finally:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(connection.close(), ANSWER_SECONDS)

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there now; where it is not, questions wait for it."""
        return self._nc.is_connected

    # -- set up, by `farm up` alone ---------------------------------------------------------------

    async def prepare(self, settings: Settings) -> None:
        """Make what is missing, and set what is there to `settings`."""
        js = self.jetstream
        await _made(
            js.add_stream,
            js.update_stream,
            StreamConfig(
                name=STREAM,
                # Those that a consumer takes, and that of `probe`: what nobody takes would stay for ever.
                subjects=[*(f"job.{each}.{priority}.*" for each in CLASSES for priority in PRIORITIES), "job.probe"],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                discard=DiscardPolicy.NEW,
                discard_new_per_subject=True,
                max_msgs_per_subject=settings.cap,
                max_msgs=settings.most_open,
                max_msg_size=1024,
                duplicate_window=DUPLICATE_SECONDS,
                allow_direct=True,
            ),
        )
        for memory_class in CLASSES:
            for priority in PRIORITIES:
                await js.add_consumer(
                    STREAM,
                    ConsumerConfig(
                        durable_name=f"{memory_class}-{priority}",
                        filter_subject=f"job.{memory_class}.{priority}.*",
                        ack_policy=AckPolicy.EXPLICIT,
                        ack_wait=settings.lease_seconds,
                        # Counted by the workers, who say why: one that was delivered too often would stay unseen.
                        max_deliver=-1,
                        max_ack_pending=20_000,
                    ),
                )
        for bucket in (RECORDS, FARM):
            # As nats-py makes a bucket, but for roll-ups: with their header one message empties a stream.
            await _made(
                js.add_stream,
                js.update_stream,
                StreamConfig(
                    name=f"KV_{bucket}",
                    subjects=[f"$KV.{bucket}.>"],
                    storage=StorageType.FILE,
                    discard=DiscardPolicy.NEW,
                    max_msgs_per_subject=1,
                    max_msg_size=MOST_BYTES,
                    deny_delete=True,
                    allow_direct=True,
                ),
            )
        await (await js.key_value(FARM)).put("settings", settings.to_json())

    async def probe(self, kinds: Sequence[str]) -> bool:
        """Whether the broker can store, blobs of these kinds too.

        Once its disk was full, a stream takes nothing more, whatever room there is, until the broker is started again.
        """
        marks = {f"$O.{kind}.M.probe": {"Nats-Rollup": "sub"} for kind in kinds}
        marks |= {"$KV.jobs.probe": {"KV-Operation": "DEL"}, "job.probe": {}}
        try:
            for subject, headers in marks.items():
                await self.jetstream.publish(subject, b"", headers=headers)
            await self.jetstream.purge_stream(STREAM, subject="job.probe")
        except nats.js.errors.APIError:
            return True  # it is full, and says so
        except (asyncio.TimeoutError, nats.errors.Error):
            return False
        return True

    async def settings(self) -> Settings:
        """Raises:
        NoFarm: it was never set up.
        """
        try:
            bucket = await self._bucket(FARM)
            return Settings.of((await patiently(lambda: bucket.get("settings"))).value)
        except nats.js.errors.NotFoundError as error:
            raise NoFarm("this broker is no farm's: run `python -m farm up`") from error

    # -- jobs -------------------------------------------------------------------------------------

    async def submit(self, job: Job) -> Record:
        """Queue a job; one that is known already is not queued again.

        Returns:
            Its record, whatever became of it.
        Raises:
            Full: the user has too many.
        """
        bucket = await self._bucket(RECORDS)
        record = Record(job, queued=time.time())
        data = record.to_json()
        created = True
        try:
            revision = await patiently(lambda: bucket.create(job.id, data))
            record = dataclasses.replace(record, revision=revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            there = await self.record(job.id)
            if there is None:  # it was forgotten in this moment
                return await self.submit(job)
            created, record = there.to_json() == data, there
        if record.state == QUEUED:
            try:
                await self.enqueue(record)
            except Full:
                if created:
                    with contextlib.suppress(nats.js.errors.Error):
                        await self.forget(record)
                raise
        return record

    async def enqueue(self, record: Record) -> None:
        """Put a record's id into the queue, where it is at most once for each round."""
        data = json.dumps({"id": record.id, "round": record.round}).encode()
        headers = {"Nats-Msg-Id": record.message_id}
        await patiently(lambda: self.jetstream.publish(record.subject, data, headers=headers))

    async def record(self, job_id: str) -> Record | None:
        """Raises:
        InvalidJob: what is there is no record of this version.
        """
        if not is_id(job_id):
            raise InvalidJob(f"{str(job_id)[:80]!r} is no id of a job")
        bucket = await self._bucket(RECORDS)
        try:
            entry = await patiently(lambda: bucket.get(job_id))
        except nats.js.errors.NotFoundError:
            return None
        return Record.of(entry.value, entry.revision)

    async def replace(self, record: Record, **changes: object) -> Record:
        """Compare and set.

        Raises:
            Fenced: the record is another one by now.
        """
        changed = dataclasses.replace(record, **changes)
        data = changed.to_json()
        bucket = await self._bucket(RECORDS)
        try:
            revision = await patiently(lambda: bucket.update(record.id, data, last=record.revision))
            return dataclasses.replace(changed, revision=revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            there = await self.record(record.id)
            if there is not None and there.to_json() == data:  # our own, and its answer was lost
                return there
            raise Fenced(there) from None

    async def change(self, job_id: str, changes: Callable[[Record], dict | None]) -> Record | None:
        """Compare and set until it holds.

        Args:
            changes: of the record as it is now; None to leave it.
        """
        record = await self.record(job_id)
        while record is not None:
            wanted = changes(record)
            if wanted is None:
                return record
            try:
                return await self.replace(record, **wanted)
            except Fenced as fenced:
                record = fenced.record
        return None

    async def cancel(self, job_id: str) -> Record | None:
        """Its worker stops between two chunks; one that waits is never begun."""
        return await self.change(
            job_id, lambda record: None if record.state in ENDED else {"state": CANCELLED, "ended": time.time()}
        )

    async def retry(self, job_id: str) -> Record | None:
        """Queue a job that failed or was cancelled once more, as if it came now. Its attempts go on to count: they name
        results, and fence off who still has one.

        Raises:
            Full: its user has too many; it stays as it was.
        """
        before, new = None, {"tries": 0, "worker": "", "reason": "", "started": 0.0, "ended": 0.0, "delivered": 0.0}

        def again(record: Record) -> dict | None:
            nonlocal before
            before = record
            if record.state not in ENDED or record.result is not None:
                return None
            new.update(state=QUEUED, queued=time.time(), memory_class=record.job.memory_class)
            return {**new, "round": record.round + 1}

        record = await self.change(job_id, again)
        if record is not None and record.state == QUEUED:
            try:
                await self.enqueue(record)
            except Full:
                if before.state in ENDED:
                    with contextlib.suppress(Fenced):
                        await self.replace(record, **{name: getattr(before, name) for name in new})
                raise
        return record

    async def records(self) -> list[Record]:
        """All, the oldest first; those of other versions are left out."""
        found = await self.each_record(lambda record: record, {})
        return sorted(found, key=lambda record: (record.job.created, record.id))

    async def each_record(self, make: Callable[[Record], T], seen: dict[str, tuple[int, T]]) -> list[T]:
        """What `make` makes of each record.

        Args:
            seen: what this left there the last time: only what changed since is read.
        """
        found = await self._look(make, seen)
        if not found and await self.marks(0):
            # Of a few records, nats-py may say that all were told before the first one came.
            found = await self._look(make, seen)
        seen.clear()
        seen.update(found)
        return [value for _, value in found.values()]

    async def _look(self, make: Callable[[Record], T], seen: dict[str, tuple[int, T]]) -> dict[str, tuple[int, T]]:
        found = {}
        async for entry in self._entries(">", end_with_now=True, deletes=True):
            if entry.operation:
                continue
            value = seen.get(entry.key)
            if value is None or value[0] != entry.revision:
                record = _read(entry)
                value = None if record is None else (entry.revision, make(record))
            if value is not None:
                found[entry.key] = value
        return found

    async def watch(self, job_id: str, gone: Callable[[str], object] | None = None) -> AsyncIterator[Record]:
        """Its record, now and at each change.

        Args:
            gone: called with the id of each that was deleted.
        """
        async for entry in self._entries(job_id, end_with_now=False, deletes=gone is not None):
            if gone is not None and entry.operation:
                gone(entry.key)
            elif (record := _read(entry)) is not None:
                yield record

    async def _entries(self, key: str, end_with_now: bool, deletes: bool = False) -> AsyncIterator:
        bucket = await self._bucket(RECORDS)
        # A look at all leaves a consumer in the server for so many seconds, of which it does not keep any number; one
        # that goes on outlives its connection, to hear what changed meanwhile.
        seconds = 5.0 if end_with_now else None
        watcher = await patiently(lambda: bucket.watch(key, ignore_deletes=not deletes, inactive_threshold=seconds))
        try:
            told, pending = False, False
            async for entry in watcher:
                if entry is None:  # all that is there was told; or so nats-py says, while some is on its way
                    told = True
                else:
                    pending = bool(entry.delta)
                    yield entry
                if end_with_now and told and not pending:
                    return
        finally:
            with contextlib.suppress(Exception):
                await watcher.stop()

    async def forget(self, record: Record) -> None:
        """Delete a record for good."""
        bucket = await self._bucket(RECORDS)
        with contextlib.suppress(nats.js.errors.KeyWrongLastSequenceError):
            await bucket.delete(record.id, last=record.revision)

    async def clear_marks(self) -> None:
        """Those that deleted records leave; up to each, so that a record that came since stays."""
        entries = self._entries(">", end_with_now=True, deletes=True)
        for entry in [each async for each in entries if each.operation]:
            subject = f"$KV.{RECORDS}.{entry.key}"
            await self.jetstream.purge_stream(f"KV_{RECORDS}", entry.revision + 1, subject)

    async def marks(self, records: int) -> int:
        """How many there are beside so many records."""
        told = await patiently(lambda: self.jetstream.stream_info(f"KV_{RECORDS}"))
        return told.state.messages - records

    # -- the worker's side ------------------------------------------------------------------------

    async def next(
        self,
        classes: Sequence[str],
        wait_seconds: float,
        priorities: Sequence[str] = PRIORITIES,
        is_idle: bool = True,
    ) -> Receipt | None:
        """The next job of these classes, leased: by priority first, then by the order of the classes.

        Args:
            is_idle: to be woken by a job that comes, as one of all that are idle; the others find it by asking again.
        Returns:
            None if none came within `wait_seconds`.
        """
        await self._listen(classes if is_idle else ())  # first, so that what comes while this one asks is not missed
        self._published.clear()
        for priority in priorities:
            for memory_class in classes:
                if (receipt := await self._ask(f"{memory_class}-{priority}")) is not None:
                    await self._take_turns(memory_class)
                    return receipt
        if wait_seconds:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._published.wait(), wait_seconds)
        return None

    async def _listen(self, classes: Sequence[str]) -> None:
        """Be one of those of whom a job of these classes wakes one, and no more."""
        for memory_class in self._listening.keys() - set(classes):
            for each in self._listening.pop(memory_class):
                await each.unsubscribe()
        for memory_class in classes:
            if memory_class not in self._listening:
                subjects = (f"job.{memory_class}.>", NEXT + memory_class)
                self._listening[memory_class] = [
                    await self._nc.subscribe(subject, queue="idle", cb=self._hear) for subject in subjects
                ]

    async def _take_turns(self, memory_class: str) -> None:
        """After a job was taken, wake one more: jobs that came meanwhile may have woken this one only. The broker reads
        in this order, so whatever it tells from now on, it tells others.
        """
        was_idle = bool(self._listening)
        await self._listen(())
        if was_idle:
            await self.tell(NEXT + memory_class, {})

    def wake(self) -> None:
        """Let who waits in `next` ask again."""
        self._published.set()

    async def _hear(self, message) -> None:
        self.wake()

    async def _ask(self, consumer: str) -> Receipt | None:
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}"
        try:
            # In the old style, since what comes has the subject that it was queued under, not that of the answer.
            message = await self._nc.request(
                subject, b'{"batch":1,"no_wait":true}', timeout=ANSWER_SECONDS, old_style=True
            )
        except (*_PASSING, nats.errors.Error):
            return None
        if not message.reply:  # a status: there is none
            return None
        try:
            return Receipt(message)
        except (ValueError, KeyError, TypeError):
            await message.term()
            return None

    async def age(self, receipt: Receipt) -> float:
        """Seconds that an id is in the queue, by the broker's clock alone."""
        told = await patiently(lambda: self.jetstream._api_request(f"$JS.API.STREAM.INFO.{STREAM}"))
        return to_seconds(told["ts"]) - receipt.queued

    # -- what is only told ------------------------------------------------------------------------

    async def tell(self, subject: str, values: dict) -> None:
        """To whoever listens; nothing of it is kept."""
        with contextlib.suppress(nats.errors.Error):
            await self._nc.publish(subject, json.dumps(values).encode())

    async def hear(self, subject: str, callback: Callable[[dict], Awaitable[dict | None]]):
        """Call back for each object that is told, by whomever; what is returned is the answer to who asked."""

        async def heard(message) -> None:
            with contextlib.suppress(ValueError, RecursionError, nats.errors.Error):
                told = json.loads(message.data or b"{}")
                answer = await callback(told) if isinstance(told, dict) else None
                if answer is not None and message.reply:
                    await self._nc.publish(message.reply, json.dumps(answer).encode())

        return await self._nc.subscribe(subject, cb=heard)

    async def ask_all(
        self,
        subject: str,
        wait_seconds: float,
        values: dict | None = None,
        until: Callable[[dict], bool] = lambda answer: False,
    ) -> list[dict]:
        """All answers that come within that time, or until one comes of which `until` holds."""
        inbox, answers, enough = self._nc.new_inbox(), [], asyncio.Event()

        async def heard(message) -> None:
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(answer := json.loads(message.data), dict):
                    answers.append(answer)
                    if until(answer):
                        enough.set()

        subscription = await self._nc.subscribe(inbox, cb=heard)
        await self._nc.publish(subject, json.dumps(values or {}).encode(), reply=inbox)
        await self._nc.flush()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(enough.wait(), wait_seconds)
        await subscription.unsubscribe()
        return answers

    async def _bucket(self, name: str):
        if name not in self._buckets:
            self._buckets[name] = await patiently(lambda: self.jetstream.key_value(name))
        return self._buckets[name]


# What passes: the broker is being started again, or the network is gone for a while.
_PASSING = (
    asyncio.TimeoutError,
    nats.errors.TimeoutError,
    nats.errors.NoRespondersError,
    nats.errors.OutboundBufferLimitError,
    nats.js.errors.NoStreamResponseError,
    nats.js.errors.ServiceUnavailableError,
)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer, or PATIENCE_SECONDS have gone.

    Raises:
        NoFarm: they have gone.
        Full: the broker takes no more.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await ask()
        except _PASSING as error:
            if getattr(error, "description", "") in FULL:
                raise Full(f"the farm takes no more: {error.description}") from error
            if time.monotonic() > deadline:
                raise NoFarm(f"the broker did not answer for {PATIENCE_SECONDS:.0f} s") from error
            await asyncio.sleep(AGAIN_SECONDS)


def to_seconds(text: str) -> float:
    """Since 1970, whole ones: Python 3.10 reads no nanoseconds."""
    return datetime.datetime.fromisoformat(f"{text[:19]}+00:00").timestamp()


def _tls(ca: str) -> ssl.SSLContext:
    """Trusts what the system trusts, and the certificates in the file `ca`, whoever signed them."""
    context = ssl.create_default_context()
    if ca:
        context.load_verify_locations(ca)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # one that is not its own issuer, too
    return context


def _read(entry) -> Record | None:
    """None where it is of another version."""
    try:
        return Record.of(entry.value, entry.revision, entry.created.timestamp())
    except InvalidJob as error:
        log.debug("a record that cannot be read: %s", error)
        return None


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """All but what asyncio says at the end of each TLS connection of nats-py, which makes its streams by hand."""
    return not str(record.msg).startswith("returning true from eof_received()")


async def _made(add: Callable, update: Callable, config: StreamConfig) -> None:
    try:
        await add(config)
    except nats.js.errors.BadRequestError:  # there is one, set otherwise
        await update(config)
