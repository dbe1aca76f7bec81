"""What a farm is set to, and where its own files are."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from .roles import ADMIN, CLIENT, role_of, token_of

# Exit statuses of a worker that cannot be here as it was asked for: however often it is started, or for now.
UNFIT, NOT_YET = 77, 78
# To replace a file that others read.
TRIES, AGAIN_SECONDS = 20, 0.05


@dataclass(frozen=True, slots=True)
class Settings:
    """Kept by the broker, the same for all who take part.

    Args:
        folder: where latents, VAEs and videos are, for farms whose machines all see one; "" to keep them in the
            broker, which is slower and needs no shared folder.
        lease_seconds: a job whose worker gave no sign for so long goes to another.
        first_frame_seconds, frame_seconds: a GPU that makes no frame for so long is taken to hang; a CPU has 60 times
            as long. The first takes longer, since kernels are compiled, and so may the end of a file.
        cap: jobs that a user may have waiting and under way, for each priority and class of memory.
        most_tries: a job that ended so many workers has failed.
        most_open: jobs that all users may have waiting and under way.
        kept_seconds, kept_bytes: how long files that nobody fetched are kept, and how many.
        kept_jobs: how many jobs that have ended are remembered.
        orphan_seconds: what belongs to nobody goes after this.
    """

    folder: str = ""
    lease_seconds: float = 10.0
    first_frame_seconds: float = 120.0
    frame_seconds: float = 20.0
    cap: int = 1000
    most_open: int = 100_000
    most_tries: int = 3
    kept_seconds: float = 7 * 86400.0
    kept_bytes: int = 20 * 10**9
    kept_jobs: int = 2_000
    orphan_seconds: float = 3600.0

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def of(cls, data: bytes) -> Settings:
        known = {each.name for each in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in json.loads(data).items() if key in known})


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker is, and what lets one in.

    Args:
        url: nats://host:port, or tls://host:port.
        token: of a role, see roles.py; secret.
        ca: a file of certificates to trust beside the system's; "" for none.
    """

    url: str
    token: str
    ca: str = ""


class NoFarm(RuntimeError):
    """No farm is set up here, or it does not answer; says what to do."""


class Unfit(NoFarm):
    """See UNFIT; says what to do."""


class NotYet(NoFarm):
    """See NOT_YET."""


def home() -> Path:
    """The folder of a farm on this machine, its own user's alone."""
    return Path(os.environ.get("AFP_FARM_HOME") or Path.home() / ".async-frame-pipeline" / "farm")


def address(given: str | None = None, role: str = CLIENT) -> Address:
    """Of the farm to use: as given, else that of AFP_FARM, else the one that `farm up` started here.

    Args:
        given: nats://token@host:port. The token may come from AFP_FARM_TOKEN instead, which no list of processes shows.
        role: what it is wanted for.
    Raises:
        NoFarm: there is none, or the token is that of another role.
    """
    given = given or os.environ.get("AFP_FARM")
    if given:
        scheme, _, rest = given.partition("://")
        token, at, host = rest.rpartition("@")
        token = token if at else os.environ.get("AFP_FARM_TOKEN", "")
        if scheme not in ("nats", "tls") or not host or not token:
            raise NoFarm("the address of a farm is nats://token@host:port; the token may be in AFP_FARM_TOKEN")
        if role_of(token) not in (role, ADMIN):
            where = f"that of a {role} is needed: `python -m farm token {role}`, where the farm is"
            if role == ADMIN:
                where = "do this on the farm's machine, as the user who started it, without AFP_FARM and --server"
            raise NoFarm(f"this is the token of a {role_of(token)}; {where}")
        return Address(f"{scheme}://{host}", token, os.environ.get("AFP_FARM_CA", ""))
    path = home() / "farm.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if "token" in values and "url" not in values:
            raise NoFarm("the farm of this machine is down: run `python -m farm up`; what waited goes on then")
        return Address(values["url"], token_of(values["token"], role), values.get("ca", ""))
    except (OSError, ValueError, KeyError) as error:
        raise NoFarm(f"no farm is set up here ({path}): run `python -m farm up`, or set AFP_FARM") from error


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, for the user's eyes alone."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    for _ in range(TRIES):
        with contextlib.suppress(PermissionError):  # on Windows, while somebody reads it
            os.replace(part, path)
            return
        time.sleep(AGAIN_SECONDS)
    os.replace(part, path)
