"""Whatever else writes its frames into ComfyUI's buffer as it decodes them: VAEs that came after this version."""

from __future__ import annotations

from ..comfyui import vaes
from .family import Family
from .ways import Buffered, all_exact

CHUNKED = Family(
    "other video VAEs", vaes.has_chunked_io, all_exact(Buffered(frames_per_slot=4)), size=vaes.size_of_buffer
)
