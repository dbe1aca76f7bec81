"""`farm serve --http`: the farm for programs that speak HTTP.

    POST /, POST /decode          a tensor as diffusers' remote_decode sends it; waits, and answers with the video
    POST /v1/videos               the same tensor; answers with a job at once
    GET /v1/videos                the jobs, the newest first
    GET /v1/videos/{id}           one
    GET /v1/videos/{id}/content   its video
    DELETE /v1/videos/{id}        cancels it, or deletes what has ended
    GET /metrics                  for Prometheus

A client of the farm like others: what comes in here is a job of the user "http", and no other job can be seen or
touched from here. Errors are JSON: {"error": {"message": ...}}.
Bodies go to disk as they come, and no further than their query says; see gateway_door.py for who may send one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import ssl
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from aiohttp import web

from . import metrics
from .broker import Full
from .client import Client, JobFailed
from .gateway_door import Door, Refused
from .gateway_tensor import FAMILIES, Asked, Family, family_of, write, wrong_length
from .messages import CANCELLED, COMPLETED, ENDED, FAILED, IN_PROGRESS, InvalidJob, Record, is_id
from .settings import NoFarm, Settings

USER = "http"
# At once; each may take as much of the disk as the largest latent has.
MOST_UPLOADS = 8
# A body of which nothing comes for so long is given up.
BODY_SECONDS = 30.0
# At its end, for telling the farm.
LEAVE_SECONDS = 5.0
# Of which the last progress is known here.
MOST_FOLLOWED = 1000
READ_BYTES = 1 << 20
MOST_LISTED = 100
TYPES = {"mp4": "video/mp4", "mkv": "video/x-matroska"}
log = logging.getLogger("async-frame-pipeline.farm")


@contextlib.asynccontextmanager
async def serving(client: Client, door: Door, vaes: Sequence[Path]) -> AsyncIterator[str]:
    """For the length of the block.

    Args:
        vaes: safetensors files, one a family: that decodes which has the latent's channels.
    Returns:
        The URL.
    Raises:
        NoFarm: it cannot listen there, or a file is no VAE.
    """
    gateway = Gateway(client, await client.broker.settings(), _by_family(vaes))
    listening = await client.broker.hear("progress.*", gateway.progressed)
    runner = web.AppRunner(
        gateway.app(door),
        # Whose client goes, that request ends; and nothing unpacks a body that was sent packed.
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    listen, tls = door.listen, None
    try:
        try:
            if listen.tls_cert:
                tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                tls.load_cert_chain(listen.tls_cert, listen.tls_key)
            await web.TCPSite(runner, listen.host, listen.port, ssl_context=tls).start()
        except OSError as error:
            raise NoFarm(f"cannot listen on {listen.host}:{listen.port}: {error}") from error
        host = f"[{listen.host}]" if ":" in listen.host else listen.host
        yield f"http{'s' if tls else ''}://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        with contextlib.suppress(asyncio.TimeoutError):  # the farm may have ended first
            await asyncio.wait_for(gateway.leave(), LEAVE_SECONDS)
        await listening.unsubscribe()


class Gateway:
    """The routes, over one client.

    Args:
        vaes: the file of each family that is served.
    """

    def __init__(self, client: Client, settings: Settings, vaes: dict[Family, Path]):
        self._client, self._settings, self._vaes = client, settings, vaes
        self._uploads = 0
        self._waited: set[str] = set()
        self._frames: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._measuring = asyncio.Lock()
        self._seen: dict[str, tuple[int, metrics.Brief]] = {}

    def app(self, door: Door) -> web.Application:
        app = web.Application(middlewares=[_answers_in_json, _only_through(door)])
        app.add_routes(
            [
                web.post("/", self.decode),
                web.post("/decode", self.decode),
                web.post("/v1/videos", self.create),
                web.get("/v1/videos", self.listed),
                web.get("/v1/videos/{id}", self.retrieve),
                web.get("/v1/videos/{id}/content", self.content),
                web.delete("/v1/videos/{id}", self.delete),
                web.get("/metrics", self.metrics),
            ]
        )
        return app

    async def progressed(self, told: dict) -> None:
        """What workers tell."""
        job_id, frames, total = told.get("id"), told.get("frames"), told.get("total")
        if not is_id(job_id) or type(frames) is not int or type(total) is not int:
            return
        self._frames[job_id] = frames, total
        self._frames.move_to_end(job_id)
        if len(self._frames) > MOST_FOLLOWED:
            self._frames.popitem(last=False)

    # -- the routes -------------------------------------------------------------------------------

    async def decode(self, request: web.Request) -> web.StreamResponse:
        async with self._while_somebody_waits() as job_id:
            record = await self._submitted(request, job_id)
            try:
                await self._client.wait(job_id)
            except JobFailed as failed:
                raise Refused(500 if failed.record.state == FAILED else 409, str(failed)) from failed
            return await self._sent(request, record)

    async def create(self, request: web.Request) -> web.Response:
        async with self._while_somebody_waits() as job_id:
            return web.json_response(self._video(await self._submitted(request, job_id)))

    async def listed(self, request: web.Request) -> web.Response:
        limit, after = request.query.get("limit", "20"), request.query.get("after")
        if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= MOST_LISTED:
            raise Refused(400, f"limit is {limit[:20]!r}, expected 1 to {MOST_LISTED}")
        records = [each for each in await self._client.broker.records() if each.job.user == USER]
        if request.query.get("order", "desc") != "asc":
            records.reverse()
        ids = [record.id for record in records]
        if after is not None and after not in ids:
            raise Refused(404, "there is no such video to list from")
        rest = records if after is None else records[ids.index(after) + 1 :]
        page = [self._video(record) for record in rest[: int(limit)]]
        ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
        return web.json_response({"object": "list", "data": page, **ends, "has_more": len(rest) > len(page)})

    async def retrieve(self, request: web.Request) -> web.Response:
        return web.json_response(self._video(await self._record(request)))

    async def content(self, request: web.Request) -> web.StreamResponse:
        record = await self._record(request)
        if record.state != COMPLETED:
            raise Refused(409, f"there is no video: the job is {record.state}")
        return await self._sent(request, record)

    async def delete(self, request: web.Request) -> web.Response:
        before = await self._record(request)
        record = await self._client.broker.cancel(before.id) or before
        if before.state not in ENDED and record.state == CANCELLED:
            return web.json_response(self._video(record))
        await self._client.broker.forget(record)  # a video that belongs to nobody is swept
        return web.json_response({"id": record.id, "object": "video.deleted", "deleted": True})

    async def metrics(self, request: web.Request) -> web.Response:
        async with self._measuring:  # one at a time, however many ask
            state = await metrics.state_of(self._client.broker, self._seen)
        body = metrics.prometheus(state).encode()
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

    # -- what they are made of --------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _while_somebody_waits(self) -> AsyncIterator[str]:
        """A new id; a client that is gone before it has its answer leaves no job of it."""
        job_id = uuid.uuid4().hex
        self._waited.add(job_id)
        try:
            yield job_id
        except asyncio.CancelledError:
            # Cancelled once more meanwhile, this goes on, and `leave` sees to it.
            await asyncio.shield(self._give_up(job_id))
            raise
        except Exception:
            self._waited.discard(job_id)
            raise
        self._waited.discard(job_id)

    async def _give_up(self, job_id: str) -> None:
        await self._client.broker.cancel(job_id)
        self._waited.discard(job_id)

    async def leave(self) -> None:
        """Cancel what requests wait for that end with the gateway itself."""
        for job_id in list(self._waited):
            await self._give_up(job_id)

    async def _record(self, request: web.Request) -> Record:
        job_id = request.match_info["id"]
        record = await self._client.broker.record(job_id) if is_id(job_id) else None
        if record is None or record.job.user != USER:
            raise Refused(404, "there is no such video")
        return record

    async def _submitted(self, request: web.Request, job_id: str) -> Record:
        """Everything that can be refused is, before a byte of the body is read."""
        asked = Asked.of(request.query)
        if asked.family not in self._vaes:
            raise InvalidJob(f"no VAE of {asked.family.name} is served here")
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise Refused(415, "the body is to be the tensor as it is, not packed")
        if request.content_length not in (None, asked.params.latent_bytes):
            raise wrong_length(asked, request.content_length)
        if self._uploads >= MOST_UPLOADS:
            raise Refused(503, f"{MOST_UPLOADS} tensors are being received; try again")
        latent = self._client.scratch / f"{job_id}.latent"
        self._uploads += 1
        try:
            await write(asked, _body(request), latent)
            submitting = asyncio.ensure_future(
                self._client.submit(
                    latent,
                    self._vaes[asked.family],
                    family=asked.family.name,
                    job_id=job_id,
                    params=asked.given,
                    priority=asked.priority,
                    user=USER,
                )
            )
            try:
                return await asyncio.shield(submitting)
            except asyncio.CancelledError:
                await asyncio.wait({submitting})  # half a submit could not be cancelled
                raise
        finally:
            self._uploads -= 1
            latent.unlink(missing_ok=True)

    async def _sent(self, request: web.Request, record: Record) -> web.StreamResponse:
        output_type = record.job.params.output_type
        target = self._client.scratch / f"{record.id}.{uuid.uuid4().hex[:8]}.{output_type}"
        try:
            try:
                await self._client.fetch(record.id, target, wait=False)
            except (KeyError, InvalidJob) as error:  # swept, or damaged
                raise Refused(410, f"the video is gone: {error}") from error
            response = web.StreamResponse(headers={"Content-Type": TYPES[output_type], "X-Job-Id": record.id})
            response.content_length = target.stat().st_size
            await response.prepare(request)
            with open(target, "rb") as file:
                while data := await asyncio.to_thread(file.read, READ_BYTES):
                    await response.write(data)
            await response.write_eof()
            return response
        finally:
            target.unlink(missing_ok=True)

    def _video(self, record: Record) -> dict:
        """In the words of the /v1/videos APIs."""
        params, progress = record.job.params, {COMPLETED: 100}.get(record.state, 0)
        if record.state == IN_PROGRESS:
            frames, total = self._frames.get(record.id, (0, 0))
            progress = min(99, 100 * frames // total) if total else 0
        family = FAMILIES.get(params.shape[1])  # another client of the farm may call itself as we do
        frames, is_done = 4 * params.shape[2] - 3, record.state == COMPLETED
        error = {"code": record.state, "message": record.reason} if record.state == FAILED else None
        return {
            "id": record.id,
            "object": "video",
            "model": record.job.vae.family,
            "status": record.state,
            "progress": progress,
            "created_at": int(record.job.created),
            "completed_at": int(record.ended) if is_done else None,
            "expires_at": int(record.ended + self._settings.kept_seconds) if is_done else None,
            "size": f"{family.pixels * params.shape[4]}x{family.pixels * params.shape[3]}" if family else None,
            "seconds": f"{float(frames / params.rate):.2f}",
            "error": error,
        }


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    while True:
        try:
            data = await asyncio.wait_for(request.content.readany(), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise Refused(408, f"nothing of the body came for {BODY_SECONDS:.0f} s") from None
        if not data:
            return
        yield data


def _only_through(door: Door) -> Callable:
    @web.middleware
    async def check(request: web.Request, handler: Callable) -> web.StreamResponse:
        door.check(request.headers)
        return await handler(request)

    return check


@web.middleware
async def _answers_in_json(request: web.Request, handler: Callable) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        status, reason = error.status, error.reason
    except Refused as error:
        status, reason = error.status, str(error)
    except InvalidJob as error:
        status, reason = 400, str(error)
    except Full as error:
        status, reason = 429, str(error)
    except (asyncio.TimeoutError, NoFarm):
        status, reason = 503, "the farm does not answer"
    except ConnectionError:  # nobody is there to be told
        raise
    except Exception as error:
        is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        status, reason = (507, "the disk is full") if is_full else (500, "this failed; the gateway's log says why")
        log.exception("%s %s", request.method, request.path)
    return web.json_response({"error": {"message": reason}}, status=status)


def _by_family(paths: Sequence[Path]) -> dict[Family, Path]:
    found: dict[Family, Path] = {}
    for path in paths:
        try:
            family = family_of(path)
        except InvalidJob as error:
            raise NoFarm(str(error)) from error
        if family in found:
            raise NoFarm(f"{found[family]} and {path} are both VAEs of {family.name}: give one")
        found[family] = path
    return found
