"""Prompt and workflow in the places where the frontend looks for them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
from PIL import Image

PNG_SIGNATURE_BYTES = 8
# Flags in VP8X. https://developers.google.com/speed/webp/docs/riff_container
WEBP_HAS_EXIF, WEBP_HAS_ALPHA = 0x08, 0x10
# TIFF tags that ComfyUI uses for them, in order: Model, Make, and downwards from there.
EXIF_PROMPT, EXIF_OTHERS = 0x0110, 0x010F


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
    for key, text in as_texts(metadata).items():
        data = b"tEXt" + key.encode("latin-1") + b"\0" + text.encode("ascii")
        chunks += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return png[:header_end] + chunks + png[header_end:]


def add_to_webp(path: Path, metadata: Mapping[str, object]) -> None:
    """Append an EXIF chunk to a WebP, in place."""
    exif = Image.Exif()
    others = [key for key in metadata if key != "prompt"]
    for key, text in as_texts(metadata).items():
        exif[EXIF_PROMPT if key == "prompt" else EXIF_OTHERS - others.index(key)] = f"{key}:{text}"
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
