"""What stands in for the buffer that a VAE writes a video into: frames in order, whole, and nothing else."""

import pytest
import torch
from async_frame_pipeline.pipeline.decoders.buffered import Buffer, Compact


@pytest.fixture
def taken():
    return []


@pytest.fixture
def buffer(taken):
    return Buffer((1, 3, 7, 4, 6), torch.float32, torch.device("cpu"), taken.append)


def frames(count: int) -> torch.Tensor:
    return torch.rand(1, 3, count, 4, 6)


def test_what_is_written_is_handed_over_as_it_is(buffer, taken):
    a, b, c = frames(1), frames(4), frames(2)
    assert buffer[:, :, 0:1].copy_(a).shape == a.shape
    buffer[0:1, :, 1:5, :, 0:6].copy_(b, non_blocking=True)
    buffer[:, :, 5:] = c
    for written, there in zip((a, b, c), taken):
        assert there.shape == written.shape[1:] and there.data_ptr() == written.data_ptr(), "it is no copy"


def test_it_looks_like_the_tensor(buffer):
    tensor = torch.empty(1, 3, 7, 4, 6)
    for ours, theirs in ((buffer, tensor), (buffer[:, :, 2:5], tensor[:, :, 2:5])):
        assert (ours.shape, ours.dtype, ours.device) == (theirs.shape, theirs.dtype, theirs.device)
    assert buffer[:, :, 5:9].shape == tensor[:, :, 5:9].shape


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda buffer: buffer[:, :, 1:3].copy_(frames(2)), id="a gap"),
        pytest.param(lambda buffer: [buffer[:, :, 0:2].copy_(frames(2)) for _ in range(2)], id="twice"),
        pytest.param(lambda buffer: buffer[:, :, 0:2].copy_(frames(1)), id="fewer frames than its window"),
        pytest.param(lambda buffer: buffer[:, :, 5:9].copy_(frames(4)), id="more frames than there are"),
        pytest.param(lambda buffer: buffer[:, :, 0:2].copy_(frames(2)[:, :1]), id="one channel for all"),
        pytest.param(lambda buffer: buffer[:, :, 0:2, :2].copy_(frames(2)[..., :2, :]), id="some rows"),
        pytest.param(lambda buffer: buffer[:, :2, 0:2].copy_(frames(2)[:, :2]), id="some channels"),
        pytest.param(lambda buffer: buffer[:, :, 0:4:2].copy_(frames(2)), id="every other frame"),
        pytest.param(lambda buffer: buffer[:, :, 0].copy_(frames(1)[:, :, 0]), id="a frame by its number"),
        pytest.param(lambda buffer: buffer[..., 0:6].copy_(frames(7)), id="dots"),
        pytest.param(lambda buffer: buffer[:].copy_(frames(7)), id="fewer axes"),
        pytest.param(lambda buffer: buffer[:, :, 0:2].add_(frames(2)), id="added"),
    ],
)
def test_all_else_is_refused(buffer, write):
    with pytest.raises((ValueError, AttributeError)):
        write(buffer)


def test_what_is_remembered_lies_in_no_larger_tensor():
    whole, own = torch.rand(1, 2, 8, 3, 3), {}
    for own_layout in (whole, whole.contiguous(memory_format=torch.channels_last_3d)):
        compact = Compact(own)
        compact["a"] = (own_layout[:, :, -2:], False, None)
        compact["b"] = small = torch.rand(3)
        part, *others = own["a"]
        assert torch.equal(part, own_layout[:, :, -2:]) and others == [False, None]
        assert part.untyped_storage().nbytes() == part.nbytes
        axes = sorted(range(1, 5), key=part.stride)
        assert axes == sorted(range(1, 5), key=own_layout.stride), "the order in memory is part of the bits"
        assert own["b"] is small, "what is whole is not copied"
    assert compact.get("c", 1) == 1 and compact.pop("a", None) is not None and compact.pop("a", None) is None
    assert list(own) == ["b"]
