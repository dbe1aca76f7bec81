"""Watching a VAE's decoder from inside: counts its calls, and makes one of them run out of memory or wait.

Replaces the `forward` of the decoder's first layer on the instance: no hook, so that the tests can ask for
zero hooks, and the decoder itself stays as ComfyUI made it.
"""

import time
from pathlib import Path

import folder_paths
import torch

import nodes

HOLD_SECONDS = 120
SLOW_SECONDS = 0.1


class Watch:
    """Watches one VAE.

    Args:
        name: names the files of `hold_at`.
        vae: the comfy.sd.VAE.
        oom_at: the call (from 1) that raises out-of-memory; 0 for none.
        oom_times: how many calls from `oom_at` on raise out-of-memory.
        fail_at: the call from which on all raise RuntimeError; 0 for none.
        cancel_at: the call that interrupts the prompt, as the user's button does; 0 for none.
        slow_at: the call from which on all take longer; 0 for none.
        hold_at: the call that makes the file `<base>/hold-<name>.reached` and waits until a test makes
            `<base>/hold-<name>.go`; 0 for none.
    """

    def __init__(
        self,
        name: str,
        vae,
        oom_at: int,
        hold_at: int,
        oom_times: int = 1,
        fail_at: int = 0,
        cancel_at: int = 0,
        slow_at: int = 0,
    ):
        self.vae = vae
        self.decoder_calls = 0
        entry = first_layer(vae.first_stage_model.decoder)
        forward = entry.forward
        base = Path(folder_paths.base_path)

        def watched(*args, **kwargs):
            self.decoder_calls += 1
            if 0 < oom_at <= self.decoder_calls < oom_at + oom_times:
                raise torch.OutOfMemoryError(f"injected by the test at decoder call {self.decoder_calls}")
            if 0 < fail_at <= self.decoder_calls:
                raise RuntimeError(f"injected by the test at decoder call {self.decoder_calls}")
            if self.decoder_calls == cancel_at:
                nodes.interrupt_processing()
            if 0 < slow_at <= self.decoder_calls:
                time.sleep(SLOW_SECONDS)
            if self.decoder_calls == hold_at:
                hold(base / f"hold-{name}.reached", base / f"hold-{name}.go")
            return forward(*args, **kwargs)

        entry.forward = watched

    def hooks(self) -> int:
        """Forward and forward-pre hooks on any module of the VAE."""
        modules = self.vae.first_stage_model.modules()
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def first_layer(decoder: torch.nn.Module) -> torch.nn.Module:
    """The layer that each call of the decoder begins with (TAEHV: each latent frame); of models that no test makes
    fail, just some module."""
    for name in ("conv1", "conv_in"):
        if hasattr(decoder, name):
            return getattr(decoder, name)
    return decoder[1] if isinstance(decoder, torch.nn.Sequential) else next(decoder.children())


def hold(reached: Path, go: Path) -> None:
    reached.touch()
    deadline = time.monotonic() + HOLD_SECONDS
    while not go.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the test never made {go}")
        time.sleep(0.02)


WATCHES: dict[str, Watch] = {}
