"""Who may come in over HTTP: no page of a browser that is another's, and where a token is set, only who has it."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from .server import Listen, is_loopback
from .settings import NoFarm


class Refused(RuntimeError):
    """Attributes:
    status: of HTTP.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Door:
    """Args:
        listen: where; all but the loopback needs TLS.
        token: "" for none, on the loopback alone.
    Raises:
        NoFarm: others could come in.
    """

    listen: Listen
    token: str = ""

    def __post_init__(self) -> None:
        if not is_loopback(self.listen.host) and not self.token:
            raise NoFarm(f"{self.listen.host} can be reached from other machines: set AFP_FARM_HTTP_TOKEN, or --token")

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises:
        Refused: who asks may not.
        """
        host, origin = headers.get("Host", ""), headers.get("Origin")
        # A name that some other page's owner lets point to this machine, to be of the same origin.
        if is_loopback(self.listen.host) and not self._is_here(host):
            raise Refused(403, f"{host[:100]!r} is not where this listens")
        # A page may send a POST to anywhere; the browser then says whose it is.
        if origin is not None and _place(origin) != host.lower():
            raise Refused(403, f"pages of {origin[:100]!r} are not let in")
        if headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
            raise Refused(403, "other pages are not let in")
        given = _token(headers).encode(errors="surrogateescape")  # a header may hold any byte
        if self.token and not secrets.compare_digest(given, self.token.encode()):
            raise Refused(401, "the token is missing, or another one: Authorization: Bearer <token>")

    def _is_here(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return is_loopback(name) or name == self.listen.host


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _token(headers: Mapping[str, str]) -> str:
    """Also as a password, which is how it is sent by who has nothing but a URL: https://any:token@host."""
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:
            pass
    return ""
