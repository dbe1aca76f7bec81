"""Groups of tensors in main memory, on the CPU: what comes back is what left, and whatever fails, all is given back.

What only a GPU can show is in tests/cuda/test_away.py.
"""

import pytest
import torch
from async_frame_pipeline.pipeline.decoders import away as away_module
from async_frame_pipeline.pipeline.decoders.away import Away

CPU = torch.device("cpu")
LAYOUTS = {
    "as it is": lambda tensor: tensor,
    "channels last": lambda tensor: tensor.to(memory_format=torch.channels_last_3d),
    "transposed": lambda tensor: tensor.transpose(1, 4),
    "a part": lambda tensor: tensor[:, :, -2:],
    "one number for all": lambda tensor: tensor[:1, :1, :1, :1, :1].expand(1, 3, 4, 5, 7),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.float64])
def test_what_comes_back_is_what_left(layout, dtype):
    first = LAYOUTS[layout](torch.randint(0, 100, (1, 3, 4, 5, 7)).to(dtype))
    second = torch.tensor([1, 2, 3], dtype=torch.uint8)  # an odd number of bytes
    third = first + 1
    wanted = [first.clone(), second.clone(), third.clone()]
    away, tensors = Away(CPU), [first, second, third]
    away.put("a", tensors)
    assert tensors == [] and "a" in away
    back = away.take("a")
    assert "a" not in away
    for got, tensor in zip(back, wanted, strict=True):
        assert torch.equal(got, tensor) and got.dtype == tensor.dtype
        assert got.stride() == tensor.stride()


def test_a_group_may_grow_and_has_one_place():
    away = Away(CPU)
    away.put("a", [torch.zeros(64)])
    [first] = away.take("a")
    away.put("a", [first + 1, torch.full((64,), 2.0)])
    first, second = away.take("a")
    assert first.unique() == 1 and second.unique() == 2
    held = away.nbytes
    for _ in range(3):
        away.put("a", [first, second])
        away.take("a")
    assert away.nbytes == held == 2 * 64 * 4


def test_a_group_that_is_put_anew_before_it_was_taken_is_the_new_one():
    away = Away(CPU)
    away.put("a", [torch.zeros(3)])
    away.fetch("a")
    away.put("a", [torch.ones(3)])
    assert away.take("a")[0].tolist() == [1, 1, 1]
    assert "a" not in away


def test_what_is_not_here_is_not_fetched():
    away = Away(CPU)
    away.fetch("a")
    assert "a" not in away
    with pytest.raises(KeyError):
        away.take("a")


def test_closed_it_holds_nothing_and_begins_anew():
    away = Away(CPU)
    away.put("a", [torch.zeros(3)])
    away.put("b", [torch.zeros(3)])
    away.fetch("b")
    away.close()
    assert away.nbytes == 0 and "a" not in away and "b" not in away
    away.put("a", [torch.ones(5)])  # of another shape, even
    assert away.take("a")[0].tolist() == [1] * 5
    away.close()
    away.close()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory")])
def test_where_there_is_no_main_memory_nothing_is_lost(error, monkeypatch):
    away, tensors = Away(CPU), [torch.ones(3)]
    away.put("a", [torch.zeros(3)])
    [first] = away.take("a")

    def refuse(nbytes):
        raise error

    monkeypatch.setattr(away_module, "_touched", refuse)
    with pytest.raises(type(error)):
        away.put("b", tensors)
    assert len(tensors) == 1 and "b" not in away
    more = [first, torch.ones(3)]
    with pytest.raises(type(error)):
        away.put("a", more)  # what it has no place for
    assert len(more) == 2 and "a" not in away
    away.put("a", more[:1])
    assert len(away.take("a")) == 1
    away.close()
    assert away.nbytes == 0


def test_where_there_is_no_memory_to_come_back_to_it_is_still_here(monkeypatch):
    away = Away(CPU)
    away.put("a", [torch.zeros(3), torch.ones(3)])
    to = torch.Tensor.to
    with monkeypatch.context() as patch:

        def refuse_the_second(tensor, *args, **kwargs):
            if tensor.max() == 1:
                raise torch.OutOfMemoryError("out of memory")
            return to(tensor, *args, **kwargs)

        patch.setattr(torch.Tensor, "to", refuse_the_second)
        with pytest.raises(torch.OutOfMemoryError):
            away.take("a")
    assert "a" in away
    assert [tensor.tolist() for tensor in away.take("a")] == [[0, 0, 0], [1, 1, 1]]
    away.close()
    assert away.nbytes == 0
