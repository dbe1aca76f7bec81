"""A tensor that came over HTTP: what its query says, and its bytes into a .latent file.

As diffusers' `remote_decode` sends it (huggingface/diffusers@05b39ab2 src/diffusers/utils/remote_utils.py): the body is
the tensor's bytes and nothing else; `shape` (once for each axis), `dtype`, `output_type` and `do_scaling` are in the
query. Beside them fps, format, quality, bit_depth and priority, as in a job.
Knows nothing of jobs' lives, and needs neither torch nor aiohttp.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .header import DTYPES, header_of
from .messages import OUTPUT_TYPES, PRIORITIES, InvalidJob, Params


@dataclass(frozen=True, slots=True)
class Family:
    """Args:
    name: as in a job.
    pixels: that a latent's pixel is wide and high.
    fps: that its models make.
    """

    name: str
    pixels: int
    fps: str


# By the channels of its latents.
FAMILIES = {16: Family("Wan 2.1", 8, "16"), 48: Family("Wan 2.2", 16, "24")}


class Query(Protocol):
    def getall(self, key: str, default: Sequence[str]) -> Sequence[str]: ...

    def get(self, key: str, default: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be made of it."""

    params: Params
    family: Family
    priority: str

    @property
    def given(self) -> dict:
        """The params that a latent's file does not tell, for `Client.submit`."""
        values = dataclasses.asdict(self.params)
        return {name: value for name, value in values.items() if name not in ("shape", "dtype")}

    @classmethod
    def of(cls, query: Query) -> Asked:
        """Raises:
        InvalidJob: nobody can make that.
        """
        output_type = query.get("output_type", "mp4")
        if output_type not in OUTPUT_TYPES:
            raise InvalidJob(
                f"output_type is {output_type[:20]!r}; a farm makes files, mp4 or mkv: ask diffusers' remote_decode "
                "for output_type='mp4' and return_type='mp4'"
            )
        for name in ("scaling_factor", "shift_factor"):
            if query.get(name, ""):
                raise InvalidJob(
                    f"{name}: Wan has a factor for each channel; leave it out, and do_scaling applies them"
                )
        shape = tuple(_whole(each) for each in query.getall("shape", ()))
        family = FAMILIES.get(shape[1] if len(shape) == 5 else 0)
        given = {name: query.get(name, "") for name in ("dtype", "fps", "format", "quality")}
        params = Params(
            shape,
            do_scaling=_is_true(query.get("do_scaling", "false")),
            output_type=output_type,
            bit_depth=_whole(query.get("bit_depth", "8")),
            **{"fps": family.fps if family else "16", **{name: value for name, value in given.items() if value}},
        )
        if family is None:
            known = ", ".join(f"{each.name}'s {channels}" for channels, each in FAMILIES.items())
            raise InvalidJob(f"the latent has {shape[1]} channels, expected {known}")
        priority = query.get("priority", "std")
        if priority not in PRIORITIES:
            raise InvalidJob(f"priority is {priority[:20]!r}, expected one of {', '.join(PRIORITIES)}")
        return cls(params, family, priority)


class WrongLength(InvalidJob):
    """The body is not the tensor that the query says."""


async def write(asked: Asked, body: AsyncIterator[bytes], path: Path) -> None:
    """The bytes of a body into a .latent file, as they come: no more of them than are expected.

    Raises:
        WrongLength: there are more, or fewer. The file is as far as it came.
    """
    params, left = asked.params, asked.params.latent_bytes
    entry = {"dtype": DTYPES[params.dtype], "shape": params.shape, "data_offsets": [0, left]}
    header = json.dumps({"latent_tensor": entry}).encode()
    header += b" " * (-len(header) % 8)
    file = await asyncio.to_thread(open, path, "wb")
    try:
        await asyncio.to_thread(file.write, struct.pack("<Q", len(header)) + header)
        async for data in body:
            left -= len(data)
            if left < 0:
                break
            await asyncio.to_thread(file.write, data)
    finally:
        await asyncio.to_thread(file.close)
    if left:
        raise wrong_length(asked, "more" if left < 0 else f"{params.latent_bytes - left}")


def wrong_length(asked: Asked, there: object) -> WrongLength:
    params = asked.params
    shape = " x ".join(map(str, params.shape))
    return WrongLength(f"the body has {there} bytes; {shape} of {params.dtype} are {params.latent_bytes}")


def family_of(path: Path) -> Family:
    """Of a VAE, by the header of its file.

    Raises:
        InvalidJob: it is none of Wan's.
    """
    try:
        return FAMILIES[header_of(path)["conv2.weight"]["shape"][0]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InvalidJob(f"{path} is no VAE of Wan 2.1 or 2.2: {type(error).__name__}: {error}") from error


def _whole(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise InvalidJob(f"{text[:20]!r} is no whole number, as shape and bit_depth are")
    return int(text)


def _is_true(text: str) -> bool:
    """As Python and JSON write it."""
    if text.lower() not in ("true", "false"):
        raise InvalidJob(f"do_scaling is {text[:20]!r}, expected true or false")
    return text.lower() == "true"
