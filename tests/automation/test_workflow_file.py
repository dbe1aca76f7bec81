"""What is no workflow file, or a damaged one. What becomes of the others: test_cases.py."""

from __future__ import annotations

import pytest
from async_frame_pipeline.automation import FormatError, swap


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        "text",
        3,
        {},
        {"nodes": []},
        {"nodes": {}, "links": []},
        {"1": {"class_type": "VAEDecode"}},
        {"prompt": {}},
    ],
)
def test_what_is_no_workflow_is_refused(broken: object):
    with pytest.raises(FormatError, match="no workflow"):
        swap(broken)


@pytest.mark.parametrize(
    "nodes, links",
    [
        ([None], []),
        ([{"id": 1}], []),
        ([{"id": 8, "type": "VAEDecode"}], [None]),
        ([{"id": 8, "type": "VAEDecode"}], [[1, 8]]),
        ([{"id": 8, "type": "AsyncVAEDecodeToVideo"}], []),
    ],
)
def test_a_damaged_workflow_is_refused(nodes: list, links: list):
    for reverse in (False, True):
        try:
            after, _ = swap({"nodes": nodes, "links": links}, reverse=reverse)
        except FormatError as error:
            assert "damaged" in str(error)
        else:
            assert after == {"nodes": nodes, "links": links}, "changed, though not understood"
