import pytest
import torch
from async_frame_pipeline.pipeline import main_memory


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.0),
        torch.arange(24, dtype=torch.float16).view(2, 3, 4),
        torch.randn(2, 5, 3, 3).contiguous(memory_format=torch.channels_last),
    ],
)
def test_a_copy_has_the_values_and_the_strides_and_is_one(tensor):
    copy = main_memory.copied(tensor)
    assert torch.equal(copy, tensor) and copy.stride() == tensor.stride() and copy.dtype == tensor.dtype
    copy.add_(1)
    assert not torch.equal(copy, tensor)
