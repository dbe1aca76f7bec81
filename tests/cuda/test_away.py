"""Note [The barriers of what is away] of away.py: with each lane slowed down in turn what comes back is right, and with
any one barrier taken out it is wrong."""

import functools

import pytest
import torch
from async_frame_pipeline.pipeline.decoders import away as away_module
from async_frame_pipeline.pipeline.decoders.away import Away

SLEEP_CYCLES = 20_000_000  # about 10 ms on an H100: far longer than any copy here
LONG = 4 * SLEEP_CYCLES  # and than the host takes for a few steps
STEPS = 16
# 10 MiB: torch's allocator gives such tensors memory of their own, and to the next of the same size as it is.
SHAPE = (1024, 2560)
SPARE = 50


class SlowAway(Away):
    """Copies begin late, by as many cycles, on the stream out or on the stream back."""

    def __init__(self, device, out=0, back=0):
        super().__init__(device)
        self._late = {"out": out, "back": back}

    def fence_made(self, out):
        super().fence_made(out)
        self.sleep(out, "out")

    def fence_out(self, back, event):
        super().fence_out(back, event)
        self.sleep(back, "back")

    def sleep(self, stream, lane):
        if self._late[lane]:
            with torch.cuda.stream(stream):
                torch.cuda._sleep(self._late[lane])


def run(device, away, groups, slow_decoder=0):
    """Groups that go away and come back, in turn, each time with another number; whether all that came was right.

    No number is ever there twice, so that neither an older state nor another group is taken for the right one.
    """
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    left = []  # where the first tensor of each group that was put away was
    torch.cuda.empty_cache()  # no memory but this run's
    spare = [torch.empty(SHAPE, device=device) for _ in range(SPARE)]  # who asks for more may have to wait for it
    del spare
    for step in range(STEPS):
        group = step % groups
        number = step - groups + 1
        if group in away:
            tensors = away.take(group)
        else:
            tensors = [torch.full(SHAPE, float(number), device=device) for _ in range(2)]
        wrong += sum((tensors[at] != number).sum() for at in range(2))
        new = torch.empty_like(tensors[0])
        if slow_decoder:
            torch.cuda._sleep(slow_decoder)
        torch.add(tensors[0], groups, out=new)
        tensors[0] = new  # as histories are: a new one in its place
        tensors[1] += groups  # as those of bands are: the same one again
        left.append(new.data_ptr())
        del new
        away.put(group, tensors)
        # What the decoder makes next lands on what this has given up.
        made = []
        while step >= away_module.LEAVING and left[step - away_module.LEAVING] not in [x.data_ptr() for x in made]:
            made.append(torch.full(SHAPE, float("nan"), device=device))
            assert len(made) < 100, "nothing was given up"
        del made  # and what comes lands on that, which is being filled
        away.fetch((group + 1) % groups)
    torch.cuda.synchronize(device)
    away.close()
    return int(wrong) == 0


@functools.cache
def warm_up(device):
    """Kernels that are loaded at their first use make the host late."""
    torch.cuda._sleep(1)
    assert run(device, Away(device), groups=2)


@pytest.fixture(params=[1, 3])
def leaving(request, device, monkeypatch):
    warm_up(device)
    monkeypatch.setattr(away_module, "LEAVING", request.param)
    return request.param


@pytest.mark.parametrize("slow", [(), ("decoder",), ("out",), ("back",), ("decoder", "out", "back")])
@pytest.mark.parametrize("groups", [1, 2, 4, 6])
def test_whatever_is_slow(device, leaving, slow, groups):
    decoder, out, back = (SLEEP_CYCLES * (lane in slow) for lane in ("decoder", "out", "back"))
    assert run(device, SlowAway(device, out, back), groups, decoder)


def test_without_made_what_was_there_before_leaves(device, leaving, monkeypatch):
    monkeypatch.setattr(Away, "fence_made", lambda away, out: None)
    assert not run(device, Away(device), leaving + 1, slow_decoder=LONG)


def test_without_out_an_older_state_comes_back(device, leaving, monkeypatch):
    """With no more groups than may be on their way out: the host has not waited for the one that is fetched."""
    monkeypatch.setattr(Away, "fence_out", lambda away, back, event: None)
    assert not run(device, SlowAway(device, out=LONG), leaving)


def test_without_back_the_decoder_reads_what_is_not_there_yet(device, leaving, monkeypatch):
    monkeypatch.setattr(Away, "fence_back", lambda away, stream, event: None)
    assert not run(device, SlowAway(device, back=LONG), leaving + 1)


def test_without_used_what_comes_lands_on_what_is_being_read(device, leaving, monkeypatch):
    """With one group more the one that is fetched has left, and comes while the decoder is still at work."""
    monkeypatch.setattr(Away, "fence_used", lambda away, back: None)
    assert not run(device, Away(device), leaving + 1, slow_decoder=LONG)


def test_without_free_the_next_tensor_lands_on_what_is_being_copied(device, leaving, monkeypatch):
    """With one group more what is given up has not come back since: for that the decoder would wait too."""
    monkeypatch.setattr(Away, "free", lambda away, event, tensors: None)
    assert not run(device, SlowAway(device, out=LONG), leaving + 1)


def test_what_comes_in_vain_lands_on_nothing_else(device):
    away = SlowAway(device, back=LONG)
    away.put("a", [torch.full(SHAPE, 1.0, device=device)])
    away.fetch("a")
    away.put("a", [torch.full(SHAPE, 2.0, device=device)])
    away.fetch("a")
    made = [torch.full(SHAPE, 3.0, device=device) for _ in range(4)]
    torch.cuda.synchronize(device)
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for tensor, number in [(made[0], 3), (made[1], 3), (made[2], 3), (made[3], 3), (away.take("a")[0], 2)]:
        wrong += (tensor != number).sum()
    assert int(wrong) == 0
    away.close()


class Pins:
    """Page-locks, and knows what is page-locked."""

    def __init__(self, refused=False):
        self.addresses, self._refused = [], refused

    def pin(self, host):
        if self._refused or not away_module.page_lock(host):
            return False
        self.addresses.append(host.data_ptr())
        return True

    def unpin(self, host):
        self.addresses.remove(host.data_ptr())
        away_module.page_unlock(host)


def test_main_memory_is_given_back(device):
    pins = Pins()
    away = Away(device, pins.pin, pins.unpin)
    away.put("a", [torch.zeros(SHAPE, device=device)])
    assert away.nbytes == 10 * 1024**2 and len(pins.addresses) == 1
    away.close()
    assert away.nbytes == 0 and pins.addresses == []


def test_where_page_locking_is_refused_it_works_as_well(device):
    pins = Pins(refused=True)
    assert run(device, Away(device, pins.pin, pins.unpin), groups=3)


def test_where_page_locking_raises_everything_can_be_given_back(device):
    pins = Pins()

    def pin(host):
        if pins.addresses:
            raise MemoryError("no more")
        return pins.pin(host)

    away = Away(device, pin, pins.unpin)
    away.put("a", [torch.full(SHAPE, 1.0, device=device)])
    second = [torch.full(SHAPE, 2.0, device=device)]
    with pytest.raises(MemoryError, match="no more"):
        away.put("b", second)
    assert len(second) == 1 and "b" not in away
    [back] = away.take("a")
    assert (back == 1.0).all()
    away.close()
    assert away.nbytes == 0 and pins.addresses == []


def test_memory_that_cannot_be_unpinned_keeps_no_other(device, caplog):
    pins = Pins()
    failing = []

    def unpin(host):
        pins.unpin(host)
        if not failing:
            failing.append(host)
            raise RuntimeError("not this one")

    away = Away(device, pins.pin, unpin)
    for key in "ab":
        away.put(key, [torch.zeros(SHAPE, device=device)])
    away.close()
    assert away.nbytes == 0 and pins.addresses == []
    assert "could not be unpinned: not this one" in caplog.text


def test_out_of_gpu_memory_while_a_group_comes_it_is_still_here(device):
    count, each = 8, 10 * 1024**2
    pins = Pins()
    away = Away(device, pins.pin, pins.unpin)
    away.put("a", [torch.full(SHAPE, float(at), device=device) for at in range(count)])
    away.put("b", [torch.zeros(1, device=device)])  # "a" has left
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info(device)[1]
    try:
        room = torch.cuda.memory_reserved(device) + count // 2 * each  # for half of it
        torch.cuda.set_per_process_memory_fraction(room / total, device)
        with pytest.raises(torch.OutOfMemoryError):
            away.take("a")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert "a" in away
    tensors = away.take("a")
    assert [tensor.unique().tolist() for tensor in tensors] == [[float(at)] for at in range(count)]
    away.close()
    assert away.nbytes == 0 and pins.addresses == []


def test_a_run_that_is_broken_off_leaves_nothing(device):
    """Copies are under way in both directions."""
    pins = Pins()
    away = Away(device, pins.pin, pins.unpin)
    before = torch.cuda.memory_allocated(device)
    for key in "abc":
        away.put(key, [torch.full(SHAPE, 1.0, device=device)])
    torch.cuda._sleep(SLEEP_CYCLES)
    away.fetch("a")
    away.put("d", [torch.full(SHAPE, 2.0, device=device)])
    away.close()
    assert torch.cuda.memory_allocated(device) == before
    assert away.nbytes == 0 and pins.addresses == [] and not any(key in away for key in "abcd")
    away.put("a", [torch.full(SHAPE, 3.0, device=device)])
    assert (away.take("a")[0] == 3.0).all()
    away.close()


def test_strides_stay(device):
    away = Away(device)
    tensor = torch.randn(1, 8, 2, 5, 6, device=device).to(memory_format=torch.channels_last_3d)
    wanted = tensor.clone()
    strides = tensor.stride()
    away.put("a", [tensor])
    [back] = away.take("a")
    assert back.stride() == strides and torch.equal(back, wanted)
    away.close()
