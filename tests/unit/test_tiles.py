"""VAE Decode (Tiled)'s pixels bit for bit, streamed: in stretches of time, and tiles side by side."""

import threading
import weakref
from dataclasses import replace

import pytest
import torch
from async_frame_pipeline.pipeline import ring
from async_frame_pipeline.pipeline.decoders import tiles
from async_frame_pipeline.pipeline.decoders.fast.plan import Room
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink

from . import in_comfyui
from ..server.pack import vaes as tiny
from .streams import another_error, out_of_memory

import comfy.utils
from async_frame_pipeline.nodes import decoding, families
from async_frame_pipeline.nodes.comfyui import memory, tiling
from async_frame_pipeline.nodes.comfyui.tiling import Tiling
from async_frame_pipeline.nodes.families import tiled

STREAMED = "tiled, streamed"


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def no_stock_way(monkeypatch):
    """Where the stock way would be an error; gives it."""
    stock = tiling.stock_decode
    monkeypatch.setattr(tiled, "_stock", None)
    return stock


def latent_for(vae, frames: int, height: int, width: int, batch: int = 1) -> dict:
    generator = torch.Generator().manual_seed(frames + 100 * height)
    return {"samples": torch.randn(batch, vae.latent_channels, frames, height, width, generator=generator)}


def scaled(vae, tile: int, overlap: int, frames: int, frames_overlap: int) -> Tiling:
    """In latents, what the node is told in pixels and frames."""
    across, in_time = vae.spacial_compression_decode(), vae.temporal_compression_decode()
    return Tiling(tile * across, overlap * across, frames * in_time, frames_overlap * in_time)


# A tile's size and overlap across and in time, in latents; 999: all of the video.
SETTINGS = {
    "lockstep": (4, 1, 999, 1),
    "lockstep, feathered in time": (4, 1, 999, 4),
    "rows": (4, 1, 3, 1),
    "rows of two": (5, 0, 2, 1),
    "rows that overlap by half": (4, 1, 4, 2),
    "time only": (99, 1, 3, 1),
    "one tile": (99, 1, 999, 1),
}
KINDS = ["ltx", "wan 2.1", "wan 2.2", "hunyuan 1.0", "hunyuan 1.5", "cogvideox", "taehv"]
# With the first two everything is tried; with the others, what depends on the family.
CELLS = [(kind, name) for kind in KINDS for name in SETTINGS if kind in KINDS[:2] or name in ("lockstep", "rows")]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def vae(kind):
    return in_comfyui.vae(kind)


@pytest.mark.parametrize(("kind", "settings"), CELLS, indirect=["kind"])
def test_the_bits_of_the_stock_node(kind, vae, settings, no_stock_way):
    for frames, height, width in ((1, 3, 5), (5, 5, 6)):
        samples, asked = latent_for(vae, frames, height, width), scaled(vae, *SETTINGS[settings])
        stock = no_stock_way(vae, samples, asked)
        image, report = decoding.decode_image_with_report(vae, samples, tiling=asked)
        assert report.decoded.decoder == STREAMED
        assert image.shape == stock.shape and image.dtype == stock.dtype and torch.equal(image, stock), frames


@pytest.mark.parametrize("version", ["0.9", "0.9.5", "2.3", "causal"])
def test_every_ltx_side_by_side(version, no_stock_way):
    """With noise too, which is drawn when a tile begins."""
    vae = tiny.ltx(1, version)
    for frames, settings in ((9, (3, 0, 999, 1)), (21, (4, 1, 999, 1))):
        samples, asked = latent_for(vae, frames, 3, 4 if frames > 9 else 5), scaled(vae, *settings)
        torch.manual_seed(frames)
        stock = no_stock_way(vae, samples, asked)
        torch.manual_seed(frames)
        image, report = decoding.decode_image_with_report(vae, samples, tiling=asked)
        assert torch.equal(image, stock) and report.decoded.decoder == STREAMED
    assert not any(type(getattr(module, "temporal_cache_state", {})) is not dict for module in modules(vae))


def modules(vae):
    return vae.first_stage_model.modules()


@pytest.mark.parametrize("kind", ["ltx", "hunyuan 1.5"], indirect=True)
def test_bfloat16_a_batch_and_a_part(kind, no_stock_way):
    vae = tiny.KINDS[kind](1, dtype=torch.bfloat16)
    for settings in ((3, 0, 999, 1), (3, 1, 2, 1)):
        samples, asked = latent_for(vae, 4, 3, 4, batch=2), scaled(vae, *settings)
        stock = no_stock_way(vae, samples, asked)
        assert torch.equal(decoding.decode_image(vae, samples, tiling=asked), stock)
        part = TensorSink()
        decoding.decode_into(vae, samples, [part], (3, len(stock) - 2), tiling=asked)
        assert torch.equal(part.frames_thwc, stock[3:-2])


def test_the_arithmetic_of_the_node():
    """Of overlaps that are too large, and the templates' settings: the same tiles as the stock node asks for."""
    vae, asked = in_comfyui.vae("ltx"), []
    vae.decode_tiled = lambda samples, **sizes: asked.append(sizes) or torch.zeros(1, 1, 1, 1, 3)
    latent = latent_for(vae, 2, 2, 2)
    for sizes in (
        *((512, 64, 4096, 8), (768, 64, 4096, 4), (768, 64, 4096, 64), (512, 64, 64, 16), (256, 64, 64, 8)),
        *((512, 128, 64, 8), (64, 4096, 8, 4096), (96, 32, 16, 12), (4096, 0, 8, 4)),
    ):
        tiling.stock_decode(vae, latent, Tiling(*sizes))
        stock = asked.pop()
        across = (stock["tile_x"], stock["overlap"])
        tile, overlap = tiling._in_latents(vae, Tiling(*sizes))
        assert (tile[0], overlap[0]) == (stock["tile_t"], stock["overlap_t"]), sizes
        assert (tile[1], overlap[1]) == (tile[2], overlap[2]) == across, sizes


@pytest.mark.parametrize("settings", [(3, 1, 999, 1), (3, 1, 2, 1)], ids=["side by side", "in time"])
@pytest.mark.parametrize("kind", ["ltx"], indirect=True)
def test_out_of_memory(kind, vae, settings, monkeypatch, caplog):
    """Once more with less in memory, then in smaller tiles, then an error that says what to do."""
    monkeypatch.setattr(tiling, "SMALLEST", 1)
    samples, asked = latent_for(vae, 4, 3, 4), replace(scaled(vae, *settings), tile_size=4 * 32)
    model, own = vae.first_stage_model, type(vae.first_stage_model.decoder).forward
    whole, halves = (tiling.stock_decode(vae, samples, each) for each in (asked, asked.smaller(vae, 2)))
    assert not torch.equal(whole, halves)

    def fail(times):
        fails, before = [], set(threading.enumerate())

        def decode(self, *args, **kwargs):
            if len(fails) < times:
                fails.append(1)
                out_of_memory()
            return own(self, *args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(type(model.decoder), "forward", decode)
            try:
                return decoding.decode_image_with_report(vae, samples, tiling=asked)
            finally:
                assert set(threading.enumerate()) == before

    image, report = fail(1)
    assert torch.equal(image, whole) and report.decoded.decoder == STREAMED
    assert [note.split(" after")[0] for note in report.decoded.notes] == ["out of memory"]
    image, report = fail(2)
    assert torch.equal(image, halves)
    assert "in tiles of 64 pixels and not of 128" in report.decoded.notes[1]
    with pytest.raises(torch.OutOfMemoryError, match="tile_size 128 and temporal_size"):
        fail(99)


@pytest.mark.parametrize("kind", ["ltx"], indirect=True)
def test_what_fails_after_memory_ran_out_is_named(kind, vae, monkeypatch):
    """Memory was not what ended it: nothing is to be closed or made smaller for that."""
    happens = iter([out_of_memory, another_error])
    monkeypatch.setattr(type(vae.first_stage_model.decoder), "forward", lambda *args, **kwargs: next(happens)())
    with pytest.raises(RuntimeError, match="RuntimeError: a test's") as failed:
        decoding.decode_image(vae, latent_for(vae, 4, 3, 4), tiling=scaled(vae, 3, 1, 999, 1))
    assert not memory.is_oom(failed.value) and "Memory does not suffice" not in str(failed.value)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("seedvr2", "this VAE has tiles of its own"),
        ("minimax h3", "this VAE has tiles of its own"),
        ("mochi", "temporal_size takes in all of the video, and this VAE decodes that at once"),
        ("noisy ltx", "this VAE draws random numbers while it decodes"),
        ("image", "is not one video"),
        ("replaced", "another node or pack replaced the VAE's decode"),
        ("blended otherwise", "this ComfyUI decodes in a way this version of the pack does not know"),
    ],
)
def test_what_is_not_known_goes_the_stock_way(kind, why, monkeypatch):
    vae = tiny.ltx(1, "0.9.1") if " ltx" in kind else in_comfyui.vae("image" if kind == "image" else kind_of(kind))
    if kind == "replaced":
        vae.decode_tiled = vae.decode_tiled
    if kind == "blended otherwise":
        own = comfy.utils.tiled_scale_multidim
        monkeypatch.setattr(comfy.utils, "tiled_scale_multidim", lambda *args, **more: own(*args, **more) * 0.999)
    shape = (2, 4, 9, 9) if kind == "image" else (1, vae.latent_channels, 3, 3, 6)
    samples = {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(0))}
    asked = Tiling(64 if kind == "image" else 4 * vae.spacial_compression_decode(), 0, 4096, 8)
    torch.manual_seed(0)
    stock = tiling.stock_decode(vae, samples, asked)
    torch.manual_seed(0)
    image, report = decoding.decode_image_with_report(vae, samples, tiling=asked)
    assert report.decoded.decoder == "stock" and why in report.decoded.reason
    assert torch.equal(image, stock)


def kind_of(kind: str) -> str:
    return {"replaced": "wan 2.1", "blended otherwise": "wan 2.1"}.get(kind, kind)


def test_vaes_that_decode_at_once_are_streamed_in_stretches(no_stock_way):
    vae = in_comfyui.vae("mochi")
    samples, asked = latent_for(vae, 5, 3, 5), scaled(vae, 4, 1, 3, 1)
    stock = no_stock_way(vae, samples, asked)
    assert torch.equal(decoding.decode_image(vae, samples, tiling=asked), stock)


def test_it_says_when_no_tiles_were_needed(monkeypatch):
    vae = in_comfyui.vae("ltx")
    samples, asked = latent_for(vae, 2, 3, 5), scaled(vae, 4, 1, 999, 1)
    said = "It would have fitted without tiles"
    assert said in decoding.decode_image_with_report(vae, samples, tiling=asked)[1].text()
    one_tile = scaled(vae, 99, 1, 999, 1)
    assert said not in decoding.decode_image_with_report(vae, samples, tiling=one_tile)[1].text()
    monkeypatch.setattr(tiled.memory, "room", lambda vae, model: Room(0, 0, 0))
    image, report = decoding.decode_image_with_report(vae, samples, tiling=asked)
    assert said not in report.text() and "nothing overlapped until the last one" in report.text()
    assert torch.equal(image, tiling.stock_decode(vae, samples, asked))


@pytest.mark.parametrize(
    "sizes, said",
    [
        ((128, 4096, 4096, 8), ["overlap 4096, only 32"]),
        ((128, 32, 8, 4096), ["temporal_overlap 4096, only 4"]),
        ((128, 64, 16, 16), ["overlap 64, only 32", "temporal_overlap 16, only 8"]),
        ((128, 32, 16, 8), []),
        ((128, 0, 4096, 4), []),
    ],
)
def test_an_overlap_that_tiles_have_no_room_for_is_said(sizes, said):
    """Where VAE Decode (Tiled) takes another one and says nothing."""
    vae = in_comfyui.vae("wan 2.1")
    notes = decoding.decode_image_with_report(vae, latent_for(vae, 3, 3, 9), tiling=Tiling(*sizes))[1].decoded.notes
    assert [note for note in map(str, notes) if "these tiles have room" in note] == [
        f"of {each} was used: these tiles have room for no more" for each in said
    ]


def test_the_slots_are_reckoned_with(monkeypatch):
    """They take of the same memory: tiles that would fit without them, and not beside them, are not tried."""
    vae, slots = in_comfyui.vae("ltx"), []
    samples, asked = latent_for(vae, 2, 3, 5), scaled(vae, 4, 1, 999, 1)
    job = families.job(vae, samples, "auto", None, asked)
    plan = tiling.plan(vae, job.latent, asked)
    needed = job.family.ways[0]._needed(job, plan, len(plan.rows[0]))

    class Slot(ring.Slot):
        def __init__(self, *args):
            super().__init__(*args)
            slots.append(sum(half.nbytes for half in self.device.values()))

    def said(free: int) -> str:
        slots.clear()
        monkeypatch.setattr(tiled.memory, "room", lambda vae, model: Room(0, free - sum(slots), 0))
        return decoding.decode_image_with_report(vae, samples, tiling=asked)[1].text()

    monkeypatch.setattr(ring, "Slot", Slot)
    assert "Side by side the tiles would not fit into memory" in said(needed)
    assert slots and "Side by side" not in said(needed + sum(slots))


def test_a_tile_so_narrow_that_both_edges_fall_off_at_once(no_stock_way):
    vae = in_comfyui.vae("wan 2.1")
    samples, asked = latent_for(vae, 3, 3, 9), scaled(vae, 8, 2, 999, 2)
    assert torch.equal(decoding.decode_image(vae, samples, tiling=asked), no_stock_way(vae, samples, asked))


def test_one_tile_is_streamed_however_little_memory_there_is(no_stock_way, monkeypatch):
    """Decoded at once it would take more."""
    vae = in_comfyui.vae("hunyuan 1.5")
    samples, asked = latent_for(vae, 5, 3, 4), scaled(vae, 99, 1, 999, 1)
    stock = no_stock_way(vae, samples, asked)
    monkeypatch.setattr(tiled.memory, "room", lambda vae, model: Room(0, 0, 0))
    monkeypatch.setattr(tiled.InTiles, "_one_by_one", None)
    image, report = decoding.decode_image_with_report(vae, samples, tiling=asked)
    assert torch.equal(image, stock) and "nothing overlapped" not in report.text()


def test_frames_that_went_are_not_held_while_the_next_tile_is_decoded():
    plan = tiles.plan((6, 3, 3), (2, 3, 3), (1, 1, 1), lambda axis, n: n, lambda axis, n: n)
    gone = []

    def decode_tile(latents):
        assert not any(frames() is not None for frames in gone)
        return latents.clone()

    cpu = torch.device("cpu")
    tiles.decode(torch.randn(1, 3, 6, 3, 3), plan, decode_tile, lambda few: gone.append(weakref.ref(few)), cpu, cpu)
    assert len(gone) > 3
