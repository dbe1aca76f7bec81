"""Put this pack's decoders into workflow files and API prompts; and an example of how to queue those (run.py).

Python's standard library only; needs neither ComfyUI nor torch. run.py needs aiohttp.
"""

from .rules import Change, FormatError
from .swap import swap

__all__ = ["Change", "FormatError", "swap"]
