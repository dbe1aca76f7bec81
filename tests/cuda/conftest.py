"""These tests need an NVIDIA GPU: without one they are skipped, unless told that one must be there.

    AFP_REQUIRE_CUDA=1 python -m pytest tests/cuda

fails rather than skips, so that a run on a GPU machine cannot pass by seeing none. For races and bad
accesses, with racecheck and synccheck likewise:

    AFP_REQUIRE_CUDA=1 compute-sanitizer --tool memcheck python -m pytest tests/cuda -k "not device_memory"

(test_no_device_memory_is_left fails under the sanitizer and only there: references to the slots' tensors
stay behind that a plain run does not have. What holds them was not found.)
"""

import os

import pytest
import torch


@pytest.fixture(autouse=True)
def device():
    if not torch.cuda.is_available():
        if os.environ.get("AFP_REQUIRE_CUDA"):
            pytest.fail("AFP_REQUIRE_CUDA is set and there is no CUDA device")
        pytest.skip("no CUDA device; set AFP_REQUIRE_CUDA=1 where there must be one")
    return torch.device("cuda", torch.cuda.current_device())


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/cuda" in item.path.as_posix():
            item.add_marker(pytest.mark.cuda)
