"""Note [The barriers of what is away] of away.py: with each lane slowed down in turn what comes back is right, and with
any one barrier taken out it is wrong."""

import pytest
import torch
from async_frame_pipeline.pipeline.decoders import away as away_module
from async_frame_pipeline.pipeline.decoders.away import Away

SLEEP_CYCLES = 20_000_000  # about 10 ms on an H100: far longer than any copy here
GROUPS, ROUNDS = 4, 6
SHAPE = (64, 1024)


class SlowAway(Away):
    """Copies begin late, on the stream out or on the stream back."""

    def __init__(self, device, slow_out=False, slow_back=False):
        super().__init__(device)
        self._slow_out, self._slow_back = slow_out, slow_back

    def fence_made(self, out):
        super().fence_made(out)
        self.sleep(out, self._slow_out)

    def fence_out(self, back, event):
        super().fence_out(back, event)
        self.sleep(back, self._slow_back)

    def sleep(self, stream, is_slow):
        if is_slow:
            with torch.cuda.stream(stream):
                torch.cuda._sleep(SLEEP_CYCLES)


def run(device, away, slow_decoder=False):
    """Groups that each go away and come back round after round, one more added each time; None if one was wrong."""
    history = {}
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for turn in range(ROUNDS):
        for group in range(GROUPS):
            if group in away:
                tensors = away.take(group)
            else:
                tensors = [torch.zeros(SHAPE, device=device), torch.zeros(SHAPE, device=device).t()]
            away.fetch((group + 1) % GROUPS)
            wrong += sum((tensor != turn * (group + 1)).sum() for tensor in tensors)
            if slow_decoder:
                torch.cuda._sleep(SLEEP_CYCLES)
            for tensor in tensors:
                tensor += group + 1
            away.put(group, tensors)
            # What the decoder makes next lands where the tensors were, if that is free.
            history[group] = [torch.full(SHAPE, -7.0, device=device) for _ in range(2)]
    torch.cuda.synchronize(device)
    away.close()
    return int(wrong) == 0


@pytest.fixture(params=[1, 3])
def leaving(request, monkeypatch):
    monkeypatch.setattr(away_module, "LEAVING", request.param)


@pytest.mark.parametrize("slow_decoder", [False, True])
@pytest.mark.parametrize("slow_out", [False, True])
@pytest.mark.parametrize("slow_back", [False, True])
def test_whatever_is_slow(device, leaving, slow_decoder, slow_out, slow_back):
    assert run(device, SlowAway(device, slow_out, slow_back), slow_decoder)


def test_without_made_what_was_there_before_leaves(device, leaving, monkeypatch):
    monkeypatch.setattr(Away, "fence_made", lambda away, out: None)
    assert not run(device, SlowAway(device), slow_decoder=True)


def test_without_out_an_older_state_comes_back(device, leaving, monkeypatch):
    monkeypatch.setattr(Away, "fence_out", lambda away, back, event: None)
    assert not run(device, SlowAway(device, slow_out=True))


def test_without_back_the_decoder_reads_what_is_not_there_yet(device, leaving, monkeypatch):
    monkeypatch.setattr(Away, "fence_back", lambda away, stream, event: None)
    assert not run(device, SlowAway(device, slow_back=True))


def test_without_free_the_next_tensor_lands_on_what_is_being_copied(device, leaving, monkeypatch):
    monkeypatch.setattr(Away, "free", lambda away, event, tensors: None)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    assert not run(device, SlowAway(device, slow_out=True))


def test_main_memory_is_given_back(device):
    pinned = []

    def pin(host):
        pinned.append(host.data_ptr())
        return away_module.page_lock(host)

    def unpin(host):
        pinned.remove(host.data_ptr())
        away_module.page_unlock(host)

    away = Away(device, pin, unpin)
    away.put("a", [torch.zeros(SHAPE, device=device)])
    assert away.nbytes == 64 * 1024 * 4 and len(pinned) == 1
    away.close()
    assert away.nbytes == 0 and pinned == []


def test_where_page_locking_is_refused_it_works_as_well(device):
    away = Away(device, lambda host: False)
    assert run(device, away)


def test_strides_stay(device):
    away = Away(device)
    tensor = torch.randn(1, 8, 2, 5, 6, device=device).to(memory_format=torch.channels_last_3d)
    wanted = tensor.clone()
    strides = tensor.stride()
    away.put("a", [tensor])
    [back] = away.take("a")
    assert back.stride() == strides and torch.equal(back, wanted)
    away.close()
