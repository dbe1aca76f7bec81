"""Decodes that go on in turns: one at a time, in the tiles' order, and nothing of them left whatever happens."""

import threading
import time
import weakref

import pytest
import torch
from async_frame_pipeline.pipeline.decoders import lockstep, tiles
from async_frame_pipeline.pipeline.decoders.paused import Paused

CPU = torch.device("cpu")


class Cancelled(BaseException):
    """As newer ComfyUIs cancel: no Exception."""


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def plan_of(frames: int, tile: int = 3, overlap: int = 1, frames_overlap: int = 2) -> tiles.Plan:
    """Of a latent of 5 x 7 whose rows and columns are two pixels each: six tiles."""
    scale = (1, 2, 2)
    size, shared = (999, tile, tile), (frames_overlap, overlap, overlap)
    return tiles.plan((frames, 5, 7), size, shared, lambda i, n: scale[i] * n, lambda i, n: scale[i] * n)


def latents(frames: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, frames, 5, 7, generator=torch.Generator().manual_seed(frames))


def decoded(tile: torch.Tensor) -> torch.Tensor:
    """What stands for a decoder here: other values for other tiles."""
    return tile.repeat_interleave(2, 3).repeat_interleave(2, 4) * (1 + tile.mean())


def expected(video: torch.Tensor, plan: tiles.Plan) -> torch.Tensor:
    pieces: list[torch.Tensor] = []
    tiles.decode(video, plan, decoded, pieces.append, CPU, CPU)
    return torch.cat(pieces, dim=1)


def in_pieces(sizes, before=lambda count: None):
    """A decode of pieces of these sizes, another order for each tile; `before` each piece of any of them."""
    count = 0

    def stream(tile, submit):
        nonlocal count
        frames_cthw, start = decoded(tile)[0], 0
        turn = tile.shape[3] + tile.storage_offset()
        while start < frames_cthw.shape[1]:
            count += 1
            before(count)
            turn += 1
            piece = frames_cthw[:, start : start + sizes[turn % len(sizes)]]
            start += piece.shape[1]
            submit(piece)
        count += 1
        before(count)

    return stream


def run(video, plan, stream, submit=None):
    pieces: list[torch.Tensor] = []
    lockstep.decode(video, plan, lambda tile: tile.shape[2], stream, submit or pieces.append, torch.float32, CPU)
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("sizes", [(1,), (4,), (1, 2, 7), (30,), (2, 1, 1, 9)], ids=str)
@pytest.mark.parametrize("frames", [1, 2, 9, 21])
def test_pieces_of_any_size_give_the_bits_of_whole_tiles(frames, sizes):
    video, plan = latents(frames, batch=2), plan_of(frames)
    assert len(plan.rows[0]) == 6
    assert torch.equal(run(video, plan, in_pieces(sizes)), expected(video, plan))


def test_one_runs_at_a_time_however_long_each_takes():
    inside, together, threads = set(), [], set()

    def slow(count):
        me = threading.get_ident()
        threads.add(me)
        inside.add(me)
        time.sleep((count * 7 % 5) / 1000)  # others would come in, if they could
        together.append(len(inside))
        inside.discard(me)

    video, plan = latents(9), plan_of(9)

    def submit(piece):
        together.append(1 + len(inside))

    whole = expected(video, plan)
    assert torch.equal(run(video, plan, in_pieces((1, 2, 4), slow)), whole)
    lockstep.decode(video, plan, lambda tile: 9, in_pieces((2, 3), slow), submit, torch.float32, CPU)
    assert set(together) == {1} and len(threads) >= 6


def test_frames_come_as_soon_as_all_tiles_have_them():
    begun, seen = [], []
    stream = in_pieces((1,), begun.append)
    lockstep.decode(
        latents(9), plan_of(9), lambda tile: 9, stream, lambda piece: seen.append(len(begun)), torch.float32, CPU
    )
    assert seen == [6 * (frame + 1) for frame in range(9)]


def test_what_is_held_does_not_grow_with_the_video(monkeypatch):
    held = []
    own = tiles.Sums.take

    def take(self, stop):
        held.append(self._sums.shape[1])
        return own(self, stop)

    monkeypatch.setattr(tiles.Sums, "take", take)
    most = {}
    for frames in (9, 21):
        held.clear()
        run(latents(frames), plan_of(frames), in_pieces((8,)))
        lockstep_most, rows_most = max(held), 0
        held.clear()
        rows = tiles.plan((frames, 5, 7), (4, 3, 3), (1, 1, 1), lambda i, n: n * (1, 2, 2)[i], lambda i, n: n)
        assert len(rows.rows) > 2
        tiles.decode(latents(frames), rows, decoded, lambda piece: None, CPU, CPU)
        rows_most = max(held)
        most[frames] = (lockstep_most, rows_most)
    assert most[9] == most[21] == (tiles.FRAMES_AT_A_TIME, 4)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("a test's"), RuntimeError("a test's"), Cancelled()], ids=repr)
def test_an_error_at_any_piece_comes_out_here(error):
    video, plan = latents(4), plan_of(4)
    count, before = [], set(threading.enumerate())
    run(video, plan, in_pieces((2, 1), count.append))
    for at in range(1, len(count) + 1):
        left = []

        def fail(count, at=at):
            if count == at:
                raise error

        inner = in_pieces((2, 1), fail)

        def stream(tile, submit, left=left, inner=inner):
            try:
                inner(tile, submit)
            finally:
                left.append(threading.get_ident())

        with pytest.raises(type(error)) as raised:
            run(video, plan, stream)
        assert raised.value is error and len(left) == len(set(left)), at
        assert set(threading.enumerate()) == before, at


def test_an_error_of_the_caller_ends_all_of_them():
    def submit(piece):
        raise Cancelled

    with pytest.raises(Cancelled):
        run(latents(9), plan_of(9), in_pieces((1, 3)), submit)


def test_a_tile_that_ends_early_is_no_video():
    def stream(tile, submit):
        submit(decoded(tile)[0][:, :3])

    with pytest.raises(ValueError, match="ended after 3 frames, of 9"):
        run(latents(9), plan_of(9), stream)


def test_a_decode_that_will_not_end_is_asked_again():
    """One that makes an error of its own out of being ended, or goes on as if nothing was."""

    def stubborn(submit):
        for _ in range(5):
            try:
                submit(torch.zeros(3, 1, 2, 2))
            except BaseException:
                continue
        raise RuntimeError("nobody's concern")

    with Paused(stubborn, CPU) as paused:
        assert paused.next().shape == (3, 1, 2, 2)
    with Paused(stubborn, CPU):
        pass  # never begun


def test_it_is_as_in_the_thread_that_asked():
    """Inference mode or gradients or neither, and context variables."""
    import contextvars

    variable = contextvars.ContextVar("variable", default=0)
    seen = []

    def look(submit):
        seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled(), variable.get()))
        variable.set(7)

    for number, context in enumerate((torch.inference_mode(), torch.no_grad(), torch.enable_grad())):
        variable.set(number)
        with context, Paused(look, CPU) as paused:
            assert paused.next() is None and paused.next() is None
        assert variable.get() == number
    assert seen == [(True, False, 0), (False, False, 1), (False, True, 2)]


def test_a_decode_that_never_began_is_let_go_of():
    """Its VAE with it, and not only when the garbage is collected."""

    def decode(submit):
        raise AssertionError("nobody asked")

    held = weakref.ref(decode)
    paused = Paused(decode, CPU)
    paused.close()
    del decode
    assert held() is None and paused.next() is None
