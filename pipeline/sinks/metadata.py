"""Prompt and workflow in the places where the frontend looks for them."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
from PIL import Image, TiffTags

PNG_SIGNATURE_BYTES = 8
# Flags in VP8X. https://developers.google.com/speed/webp/docs/riff_container
WEBP_HAS_EXIF, WEBP_HAS_ALPHA = 0x08, 0x10
# TIFF tags that ComfyUI uses for them, in order: Model, Make, and downwards from there. Some of those are for numbers.
EXIF_PROMPT = 0x0110
EXIF_OTHERS = [tag for tag in range(0x010F, 0, -1) if TiffTags.lookup(tag).type in (TiffTags.ASCII, None)]


def storable(metadata: Mapping[str, object], holds: Callable[[str], bool]) -> dict[str, object]:
    """What of metadata can be written; what cannot is named in the log, in one line, and never costs the file.

    Of a value that JSON cannot hold only those parts are left out: what was a key goes, in a list null stands for it.

    Args:
        metadata: values by their keys; they are from other people's nodes, and left as they are.
        holds: whether a file has a place for a key.
    """
    kept: dict[str, object] = {}
    lost: list[str] = []
    endless: list[str] = []
    for key, value in metadata.items():
        if not isinstance(key, str) or not holds(key):
            lost.append(_shown(key))
            continue
        with contextlib.suppress(Exception):
            json.dumps(value, allow_nan=False)
            kept[key] = value
            continue
        copy = _LOST
        try:
            copy = _copy(value, _shown(key), (), lost, endless)
        except RecursionError:
            lost.append(_shown(key))
        if copy is not _LOST:
            kept[key] = copy
    if lost or endless:
        # That of NaN says little: it is what a node says of itself that is to run each time.
        logging.log(
            logging.WARNING if lost else logging.INFO,
            "async-frame-pipeline: left out of the stored workflow, since it cannot be written: %s",
            ", ".join([*lost, *endless][:10]) + (" and more" if len(lost) + len(endless) > 10 else ""),
        )
    return kept


_LOST = object()


def _copy(value: object, name: str, within: tuple[int, ...], lost: list[str], endless: list[str]) -> object:
    """A value without what JSON cannot hold, or _LOST.

    Args:
        name: where it is.
        within: ids of what it is in.
        lost, endless: names of what is left out are added: of what cannot be written, and of NaN and infinities.
    """
    try:
        if isinstance(value, float) and not math.isfinite(value):
            endless.append(name)
            return None  # as JavaScript writes it
        if not isinstance(value, (dict, list, tuple)) or id(value) in within:
            json.dumps(value)
            return value
        within += (id(value),)
        if not isinstance(value, dict):
            copies = [_copy(each, f"{name}.{i}", within, lost, endless) for i, each in enumerate(value)]
            return [None if each is _LOST else each for each in copies]
        parts = {}
        for key, each in value.items():
            named = f"{name}.{_shown(key)}"
            if isinstance(key, (str, int, float, type(None))):
                parts[key] = _copy(each, named, within, lost, endless)
            else:
                lost.append(named)
        return {key: part for key, part in parts.items() if part is not _LOST}
    except RecursionError:
        raise
    except Exception:  # an object of somebody's, which may do anything; what is in itself
        lost.append(name)
        return _LOST


def _shown(key: object) -> str:
    text = key if isinstance(key, str) else f"a key of type {type(key).__name__}"
    return (text if text.isprintable() and text else ascii(text))[:60]


def is_tag(key: str) -> bool:
    """Whether FFmpeg's tags have a place for a key: text in UTF-8 without control characters."""
    return key != "" and key.isprintable()


def is_png_keyword(key: str) -> bool:
    """W3C PNG, section 11.3.3.1."""
    return re.fullmatch(r"[!-~\xa1-\xff]+( [!-~\xa1-\xff]+)*", key) is not None and len(key) <= 79


def is_exif_key(key: str) -> bool:
    """ComfyUI stores "key:text", in ASCII."""
    return key != "" and key.isascii() and key.isprintable() and ":" not in key


def as_texts(metadata: Mapping[str, object]) -> dict[str, str]:
    """Every value as JSON, in ASCII, which all of these places can hold."""
    return {key: json.dumps(value) for key, value in metadata.items()}


def png_bytes(frame: av.VideoFrame, metadata: Mapping[str, object]) -> bytes:
    """A frame as a PNG of 8 bits that restores the workflow."""
    encoder = av.CodecContext.create("png", "w")
    picture = frame.reformat(format="rgb24", dst_color_range="JPEG")
    encoder.width, encoder.height, encoder.pix_fmt = picture.width, picture.height, "rgb24"
    encoder.time_base = Fraction(1, 1)
    picture.pts, picture.time_base = 0, encoder.time_base
    packets = [*encoder.encode(picture), *encoder.encode(None)]
    return with_png_texts(b"".join(map(bytes, packets)), metadata)


def with_png_texts(png: bytes, metadata: Mapping[str, object]) -> bytes:
    """A PNG file with a text chunk for each value, before its pixels. Source: W3C PNG, sections 5.3 and 11.3.3.2."""
    header_end = PNG_SIGNATURE_BYTES + 4 + 4 + struct.unpack(">I", png[8:12])[0] + 4
    chunks = b""
    # A picture beside a file may have no place for what the file has one for.
    for key, text in as_texts({key: value for key, value in metadata.items() if is_png_keyword(key)}).items():
        data = b"tEXt" + key.encode("latin-1") + b"\0" + text.encode("ascii")
        chunks += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return png[:header_end] + chunks + png[header_end:]


def add_to_webp(path: Path, metadata: Mapping[str, object]) -> None:
    """Append an EXIF chunk to a WebP, in place."""
    exif = Image.Exif()
    others = sorted((key for key in metadata if key != "prompt"), key=lambda key: key != "workflow")
    tags = dict(zip(others, EXIF_OTHERS), prompt=EXIF_PROMPT)
    for key, text in as_texts({key: value for key, value in metadata.items() if key in tags}).items():
        exif[tags[key]] = f"{key}:{text}"
    if len(others) > len(EXIF_OTHERS):
        logging.warning("async-frame-pipeline: a WebP holds %d items, others are left out", len(EXIF_OTHERS) + 1)
    data = exif.tobytes()
    with open(path, "r+b") as file:
        file.seek(12)
        kind, _, flags = struct.unpack("<4sIB", file.read(9))
        if kind == b"VP8X":
            file.seek(20)
            file.write(bytes([flags | WEBP_HAS_EXIF]))
        else:
            _insert_vp8x(file, kind)
        file.seek(0, 2)
        file.write(struct.pack("<4sI", b"EXIF", len(data)) + data + b"\0" * (len(data) % 2))
        size = file.tell()
        file.seek(4)
        file.write(struct.pack("<I", size - 8))


def _insert_vp8x(file: BinaryIO, kind: bytes) -> None:
    """Give a simple file, which holds one picture and no place for anything else, the header of an extended one.

    libwebp makes these of clips in which nothing moves.
    """
    file.seek(20)
    picture = file.read(10)
    if kind == b"VP8L":  # signature, then 14 bits of width and height each, less 1, and whether there is an alpha
        bits = int.from_bytes(picture[1:5], "little")
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    else:  # VP8: a frame tag, a start code, then 14 bits of width and of height
        width, height = (value & 0x3FFF for value in struct.unpack("<HH", picture[6:10]))
        width, height, alpha = width - 1, height - 1, 0
    file.seek(12)
    rest = file.read()
    file.seek(12)
    flags = WEBP_HAS_EXIF | (WEBP_HAS_ALPHA if alpha else 0)
    file.write(
        struct.pack("<4sIB3x", b"VP8X", 10, flags) + width.to_bytes(3, "little") + height.to_bytes(3, "little") + rest
    )
