"""Who may do what with the broker: three roles, each with a token of its own.

    admin   `farm up` and `farm down`: everything; makes the streams, sweeps. Its token never leaves its machine.
    client  submits, cancels, retries, looks and fetches. Gets no job, acks none.
    worker  takes jobs, writes records and results. Reads no video.

Neither of the last two makes, changes, empties or deletes a stream, and neither sees what the broker answers the other.
All who have the token of one role are as one: whoever has a client's can cancel every client's jobs.
"""

from __future__ import annotations

import hashlib
import hmac
import json

ADMIN, CLIENT, WORKER = "admin", "client", "worker"
ROLES = (ADMIN, CLIENT, WORKER)
# What ends a farm: the subject, and what the proof is made for that the admin says it.
DOWN = "farm.down"


def _reads(*kinds: str) -> list[str]:
    """Of blobs, by position and by name."""
    return [f"$JS.API.DIRECT.GET.OBJ_{kind}{more}" for kind in kinds for more in ("", ".>")]


_INPUTS = ("latents", "vaes", "audio")
_RECORDS = [
    "$JS.API.STREAM.INFO.*",
    "$JS.API.DIRECT.GET.KV_farm.>",
    "$JS.API.DIRECT.GET.KV_jobs.>",
    "$KV.jobs.*",
    "job.*.*.*",
]
_MAY = {
    CLIENT: {
        "publish": {
            "allow": [
                *_RECORDS,
                # To watch records, and to say how many wait.
                "$JS.API.CONSUMER.CREATE.KV_jobs.>",
                "$JS.API.CONSUMER.CREATE.KV_jobs",
                "$JS.API.CONSUMER.INFO.KV_jobs.*",
                "$JS.API.CONSUMER.LIST.JOBS",
                "$JS.FC.KV_jobs.>",
                "workers.ask",
                *_reads(*_INPUTS, "results"),
                *(f"$O.{kind}.>" for kind in _INPUTS),
            ]
        },
        "subscribe": {"allow": ["_INBOX.client.>", "progress.*"]},
    },
    WORKER: {
        "publish": {
            "allow": [
                *_RECORDS,
                "$JS.API.CONSUMER.MSG.NEXT.JOBS.*",
                "$JS.ACK.JOBS.>",
                "progress.*",
                "workers.*",
                *_reads(*_INPUTS),
                "$JS.API.DIRECT.GET.OBJ_results.$O.results.M.*",
                "$O.results.>",
            ]
        },
        "subscribe": {"allow": ["_INBOX.worker.>", "job.>", "workers.*"]},
        # To who asks how it is.
        "allow_responses": {"max": 1, "expires": "10s"},
    },
}


def token_of(secret: str, role: str) -> str:
    """The token of a role, or of DOWN; the admin's is the secret itself, which cannot be found from the others."""
    if role == ADMIN:
        return secret
    return f"{role}-{hmac.new(secret.encode(), role.encode(), hashlib.sha256).hexdigest()}"


def role_of(token: str) -> str:
    """What a token says that it is for; the broker knows whether that is true."""
    role = token.partition("-")[0]
    return role if role in (CLIENT, WORKER) else ADMIN


def inbox_of(role: str) -> str:
    """Where answers go: each role hears its own alone."""
    return f"_INBOX.{role}"


def authorization(secret: str) -> str:
    """The block of the broker's configuration."""
    users = [
        {"user": role, "password": token_of(secret, role), **({"permissions": _MAY[role]} if role in _MAY else {})}
        for role in ROLES
    ]
    return f"authorization {json.dumps({'users': users})}\n"
