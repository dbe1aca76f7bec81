"""The boxes of an MP4 or MOV file, by hand: what players read before they play anything."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

# Boxes that hold others, and how many bytes of their own come first. ISO/IEC 14496-12.
PARENTS = {b"moov": 0, b"trak": 0, b"edts": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"stsd": 8}
# A sample entry of pictures. QuickTime's have the same length.
PICTURE_BYTES = 78
# Of sound, by QuickTime's version of it.
SOUND_BYTES = {0: 28, 1: 44, 2: 64}


def boxes(path: Path) -> dict[str, list[bytes]]:
    """Contents by path, such as "moov/trak/mdia/minf/stbl/stsd/hvc1/hvcC", of every track one after another."""
    found: dict[str, list[bytes]] = {}
    for name, body in _walk(path.read_bytes(), ""):
        found.setdefault(name, []).append(body)
    return found


def entry(path: Path, kind: str) -> tuple[str, dict[str, bytes]]:
    """The sample entry of the track of `kind`, "vide" or "soun": its name, and its boxes; "" is all of it."""
    for name, track in _walk(path.read_bytes(), ""):
        if name != "moov/trak":
            continue
        inside = dict(_walk(track, "", b"trak"))
        if inside["mdia/hdlr"][8:12].decode() != kind:
            continue
        [entry] = {name.split("/")[4] for name in inside if name.startswith("mdia/minf/stbl/stsd/")}
        start = f"mdia/minf/stbl/stsd/{entry}"
        return entry, {name[len(start) + 1 :]: body for name, body in inside.items() if name.startswith(start)}
    raise AssertionError(f"no track of {kind}")


def order(path: Path) -> list[str]:
    """Names of the outermost boxes."""
    return [name for name, _ in _walk(path.read_bytes(), "") if "/" not in name]


def _walk(data: bytes, above: str, parent: bytes = b"") -> Iterator[tuple[str, bytes]]:
    position = 0
    while position + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[position : position + 8])
        start = position + 8
        if size == 1:
            size, start = struct.unpack(">Q", data[start : start + 8])[0], start + 8
        body = data[start : position + size] if size else data[start:]
        path = f"{above}/{name.decode('latin-1')}".lstrip("/")
        yield path, body
        if name in PARENTS:
            yield from _walk(body[PARENTS[name] :], path, name)
        elif parent == b"stsd":
            is_sound = above.endswith("stsd") and name in (b"mp4a", b"Opus", b"fLaC", b"in24", b"lpcm")
            skip = SOUND_BYTES[struct.unpack(">H", body[8:10])[0]] if is_sound else PICTURE_BYTES
            yield from _walk(body[skip:], path)
        position += size or len(data)


def nal_kinds(sample: bytes) -> list[int]:
    """Kinds of the NAL units in a sample of H.265, each behind four bytes of length."""
    kinds, position = [], 0
    while position < len(sample):
        [size] = struct.unpack(">I", sample[position : position + 4])
        kinds.append(sample[position + 4] >> 1 & 0x3F)
        position += 4 + size
    return kinds


def hevc_arrays(hvcc: bytes) -> dict[int, bool]:
    """Kind of NAL unit in an hvcC -> whether all there are of it are there. ISO/IEC 14496-15, section 8.3.3.1."""
    found, position = {}, 23
    for _ in range(hvcc[22]):
        kind, count = hvcc[position], struct.unpack(">H", hvcc[position + 1 : position + 3])[0]
        found[kind & 0x3F] = bool(kind & 0x80)
        position += 3
        for _ in range(count):
            position += 2 + struct.unpack(">H", hvcc[position : position + 2])[0]
    return found
