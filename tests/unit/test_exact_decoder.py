"""The exact decoder's hook, on ComfyUI's own Wan modules: it takes all of its run's frames, and nobody else's."""

import threading

import pytest
import torch
from async_frame_pipeline.pipeline.decoders import exact
from async_frame_pipeline.pipeline.decoders.away import Away
from async_frame_pipeline.pipeline.decoders.histories import Histories

from . import in_comfyui, stock_wan  # noqa: F401

from async_frame_pipeline.pipeline.decoders.families import wan


@pytest.mark.parametrize("version", ["2.1", "2.2"])
def test_what_another_thread_decodes_with_the_same_vae_is_left_alone(version):
    vae, ours, theirs = (
        stock_wan.module(version, 4),
        stock_wan.latents(version, 3, 2, 2),
        stock_wan.latents(version, 2, 2, 2),
    )
    wanted, got, seen = vae.decode(theirs), [], []

    def submit(frames_cthw):
        seen.append(frames_cthw)
        if len(seen) == 1:  # in the middle of our decode
            other = threading.Thread(target=lambda: got.append(vae.decode(theirs)))
            other.start()
            other.join()

    way = {"2.1": wan.EXACT_21, "2.2": wan.EXACT_22}[version]
    exact.decode(vae, ours, submit, way.layer(vae), lambda output: way.to_frames(vae, output))
    [theirs_got] = got
    assert torch.equal(theirs_got, wanted)
    assert torch.equal(torch.cat(seen, dim=1), vae.decode(ours)[0])


@pytest.mark.parametrize("version", ["2.1", "2.2"])
@pytest.mark.parametrize("length", [1, 2, 3, 6, 7])
def test_with_histories_in_main_memory_the_bits_are_the_same(version, length):
    vae, latents = stock_wan.module(version, 4), stock_wan.latents(version, length, 2, 3)
    away, seen = Away(torch.device("cpu")), []
    way = {"2.1": wan.EXACT_21, "2.2": wan.EXACT_22}[version]
    histories = Histories(away)
    exact.decode(
        vae, latents, seen.append, way.layer(vae), lambda output: way.to_frames(vae, output), histories=histories
    )
    assert torch.equal(torch.cat(seen, dim=1), vae.decode(latents)[0])
    has_list = length > 1 or version == "2.2"
    assert (away.nbytes > 0) == has_list
    away.close()
    assert away.nbytes == 0
