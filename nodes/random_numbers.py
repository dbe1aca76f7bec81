"""torch's own random numbers: some VAEs draw from them as they decode, so where a decode begins anew, they do too."""

from __future__ import annotations

from collections.abc import Callable

import torch


def remembered(vae) -> Callable[[], None]:
    """Remember where the generators are that a decode with this VAE may draw from; call what is returned to put them
    back there."""
    device = getattr(vae, "device", None)
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if isinstance(device, torch.device) and device.type == "cuda" else None

    def put_back() -> None:
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)

    return put_back
