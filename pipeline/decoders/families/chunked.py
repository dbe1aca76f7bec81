"""Whatever else writes its frames into ComfyUI's buffer as it decodes them: VAEs that came after this version."""

from __future__ import annotations

from . import facts
from .family import Family
from .recipe import Buffered

CHUNKED = Family("other video VAEs", facts.has_chunked_io, Buffered(frames_per_slot=4), size=facts.size_of_buffer)
