"""What stock's Wan modules remember, kept in main memory: their bits, in memory that is bounded, and nobody else's."""

import threading

import pytest
import torch
from async_frame_pipeline.pipeline.decoders import exact
from async_frame_pipeline.pipeline.decoders.away import Away
from async_frame_pipeline.pipeline.decoders.histories import Histories

from . import in_comfyui, stock_wan  # noqa: F401

from async_frame_pipeline.pipeline.decoders.families import wan

CPU = torch.device("cpu")
VERSIONS = pytest.mark.parametrize("version", ["2.1", "2.2"])


def decode(version, vae, latents, submit, histories):
    way = {"2.1": wan.EXACT_21, "2.2": wan.EXACT_22}[version]
    exact.decode(vae, latents, submit, way.layer(vae), lambda output: way.to_frames(vae, output), histories=histories)


class Kept(list):
    """In the place of Histories: all stays where it is."""

    def begin_piece(self, places):
        self.extend([None] * (places - len(self)))


def bytes_in(histories):
    return sum(value.nbytes for value in histories if isinstance(value, torch.Tensor))


@VERSIONS
@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (4, 1)])
def test_odd_sizes(version, height, width):
    vae, latents = stock_wan.module(version, 4), stock_wan.latents(version, 4, height, width)
    away, seen = Away(CPU), []
    decode(version, vae, latents, seen.append, Histories(away))
    assert torch.equal(torch.cat(seen, dim=1), vae.decode(latents)[0])


@VERSIONS
def test_main_memory_holds_the_histories_and_no_more_however_long_the_video(version):
    """Room for those few is made in vain that are as long after the first piece as they ever get."""
    vae = stock_wan.module(version, 4)
    here = Kept()
    decode(version, vae, stock_wan.latents(version, 4, 2, 3), lambda frames_cthw: None, here)
    held = []

    def submit(frames_cthw):
        held.append(away.nbytes)

    for length in (3, 4, 9):
        away = Away(CPU)
        decode(version, vae, stock_wan.latents(version, length, 2, 3), submit, Histories(away))
        assert 0 < bytes_in(here) <= max(held) == away.nbytes <= 1.05 * bytes_in(here)


@VERSIONS
def test_what_is_wanted_next_is_on_its_way(version):
    """From the second piece on that brings anything back: with the first the order becomes known."""
    late = []

    class Watched(Away):
        def take(self, key):
            late[-1].append(key not in self._coming)
            return super().take(key)

    class InPieces(Histories):
        def begin_piece(self, places):
            super().begin_piece(places)
            late.append([])

    vae = stock_wan.module(version, 4)
    decode(version, vae, stock_wan.latents(version, 7, 2, 3), lambda frames_cthw: None, InPieces(Watched(CPU)))
    assert len(late) > 3 and len(late[2]) > 30
    assert not any(any(piece) for piece in late[2:])


@VERSIONS
def test_a_decode_that_is_broken_off_leaves_the_modules_as_they_were(version):
    vae, latents = stock_wan.module(version, 4), stock_wan.latents(version, 4, 2, 3)
    wanted = vae.decode(latents)
    away, seen = Away(CPU), []

    def submit(frames_cthw):
        seen.append(frames_cthw)
        if len(seen) == 3:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        decode(version, vae, latents, submit, Histories(away))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vae.modules())
    assert away.nbytes > 0
    away.close()
    assert away.nbytes == 0
    assert torch.equal(vae.decode(latents), wanted)
    again = []
    decode(version, vae, latents, again.append, Histories(away))  # with the same memory
    assert torch.equal(torch.cat(again, dim=1), wanted[0])


@VERSIONS
def test_what_another_thread_decodes_with_the_same_vae_keeps_its_own(version):
    vae, ours, theirs = (
        stock_wan.module(version, 4),
        stock_wan.latents(version, 4, 2, 3),
        stock_wan.latents(version, 3, 3, 2),
    )
    wanted, got, seen = vae.decode(theirs), [], []

    def submit(frames_cthw):
        seen.append(frames_cthw)
        if len(seen) == 3:  # in the middle of our decode
            other = threading.Thread(target=lambda: got.append(vae.decode(theirs)))
            other.start()
            other.join()

    decode(version, vae, ours, submit, Histories(Away(CPU)))
    [theirs_got] = got
    assert torch.equal(theirs_got, wanted)
    assert torch.equal(torch.cat(seen, dim=1), vae.decode(ours)[0])


def test_a_decoder_without_such_a_list_is_refused():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = torch.nn.Identity()

        def decode(self, latents):
            return self.decoder(latents)

    model = Model()
    with pytest.raises(ValueError, match="Identity is called without feat_cache: its histories cannot be moved"):
        exact.decode(model, torch.zeros(1, 3, 1, 2, 2), None, model.decoder, histories=Histories(Away(CPU)))
