"""What the commands are given: JSON, or a picture or video in which ComfyUI stored the workflow and the prompt."""

from __future__ import annotations

from pathlib import Path

PICTURES = (".png", ".webp")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
# Of WebP's EXIF; savers use Model for the prompt and Make, with those below it, for everything else.
EXIF_MODEL, EXIF_MAKE = 0x0110, 0x010F


class SourceError(ValueError):
    """There is nothing in the file of what was asked for; the message says so."""


def is_media(path: Path) -> bool:
    return path.suffix.lower() in PICTURES + VIDEOS


def read(path: Path, wanted: tuple[str, ...]) -> str:
    """JSON text: of a file that is JSON itself, all of it.

    Args:
        wanted: "workflow" and "prompt": which of the two to take from a picture or a video, the better one first.
    Raises:
        SourceError: it holds none of them, cannot be read, or what reads it is not installed.
        OSError, UnicodeDecodeError: as reading any file.
    """
    if not is_media(path):
        return path.read_text(encoding="utf-8-sig")
    path.open("rb").close()  # an OSError of its own, if it is not there
    try:
        texts = texts_of_picture(path) if path.suffix.lower() in PICTURES else texts_of_video(path)
    except ImportError as error:
        raise SourceError(f"to read this, {error.name} is needed: use ComfyUI's Python, which has it") from error
    except Exception as error:  # of a damaged picture Pillow raises all kinds, struct.error and SyntaxError among them
        raise SourceError(f"this cannot be read: {error}") from error
    for name in wanted:
        if texts.get(name):
            return texts[name]
    others = [name for name in ("workflow", "prompt") if texts.get(name)]
    but = f", but a {others[0]}" if others else ""
    raise SourceError(f"there is no {' or '.join(wanted)} in it{but}")


def texts_of_picture(path: Path) -> dict[str, str]:
    from PIL import Image

    with Image.open(path) as picture:
        if picture.format == "PNG":
            picture.load()  # texts may follow the pixels
            return {key: text for key, text in picture.info.items() if isinstance(text, str)}
        exif = picture.getexif()
    texts = [str(exif[tag]) for tag in (EXIF_MODEL, *range(EXIF_MAKE, EXIF_MAKE - 16, -1)) if tag in exif]
    return {key: text for key, colon, text in (text.partition(":") for text in texts) if colon}


def texts_of_video(path: Path) -> dict[str, str]:
    import av

    with av.open(str(path)) as container:
        return {key.lower(): text for key, text in container.metadata.items()}  # Matroska has them in capitals
