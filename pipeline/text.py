"""Sentences for users: in English here, and in other languages by who shows them."""

from __future__ import annotations


class Text(str):
    """An English sentence that remembers what it was made of, so that it can be said in another language.

    Args:
        template: with %names% for what is filled in; `locales/` has its translations under this key.
        values: for those names; numbers as they are to be shown. One may be a Text itself.
    """

    template: str
    values: dict[str, str]

    def __new__(cls, template: str, **values: str) -> Text:
        english = template
        for name, value in values.items():
            english = english.replace(f"%{name}%", value)
        text = super().__new__(cls, english)
        text.template, text.values = template, values
        return text


def parts(text: str) -> dict:
    """{"text": its template, "values": {name: the same of what is filled in}}, ready for JSON."""
    if not isinstance(text, Text):
        return {"text": text}  # an error's message, or a name
    return {"text": text.template, "values": {name: parts(value) for name, value in text.values.items()}}


def shown(value: object) -> str:
    """Anything as text that can be logged, with half of a character in it too, and is not too long for a message."""
    return str(value).encode("ascii", "backslashreplace").decode()[:200]


def seconds(value: float) -> str:
    """As users read it: two digits where they tell something."""
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def gib(nbytes: float) -> str:
    """As users read it: GiB with a digit after the point."""
    return f"{nbytes / 1024**3:.1f}"
