"""The corners of rescuing that no server meets on demand."""

import json
import threading
from pathlib import Path

import pytest
import safetensors
import torch

from . import in_comfyui  # noqa: F401

from async_frame_pipeline.nodes import rescue


def test_a_decode_that_ends_while_the_server_stops_does_not_stop_the_rescue_of_others(monkeypatch):
    """The interpreter ends in one thread; decodes go on in others."""
    several = [{"samples": torch.full((1, 2), float(i))} for i in range(3)]
    tokens = [object() for _ in several]
    rescued = []
    monkeypatch.setattr(rescue, "_rescue", lambda samples, told: rescued.append(samples) or "")
    monkeypatch.setattr(rescue, "_under_way", dict(zip(tokens, several)))

    def id_while_a_decode_ends(samples):
        thread = threading.Thread(target=rescue._under_way.pop, args=(tokens[0], None))
        thread.start()
        thread.join()
        return id(samples)

    monkeypatch.setattr(rescue, "id", id_while_a_decode_ends, raising=False)
    rescue._rescue_at_exit()
    assert [id(samples) for samples in rescued] == [id(samples) for samples in several]


@pytest.mark.parametrize("extra", [{"workflow": {"nodes": []}, 7: 1, "half\ud800": 1}, ["no", "dict"], "text", None])
def test_metadata_that_cannot_be_written_does_not_cost_the_latents(monkeypatch, tmp_path, caplog, extra):
    prompt = {"1": {"class_type": "Any", "is_changed": [b"\xff"], "inputs": {}}}
    monkeypatch.setattr(rescue.server, "running_prompt", lambda: (prompt, {"extra_pnginfo": extra}))
    monkeypatch.setattr(rescue.server, "input_folder", lambda: tmp_path)
    assert "Nothing is lost" in rescue._rescue({"samples": torch.ones(1, 2)}, rescue.metadata())
    [path] = tmp_path.iterdir()
    with safetensors.safe_open(path, "pt") as file:
        texts = file.metadata()
    assert json.loads(texts["prompt"])["1"] == {"class_type": "Any", "is_changed": [None], "inputs": {}}
    assert ("workflow" in texts) == isinstance(extra, dict)
    assert caplog.text.count("left out of the stored workflow") == 1


class Taciturn(Exception):
    """One that does not say what it was given."""

    def __str__(self):
        return "something is wrong"


class Demanding(Exception):
    def __init__(self, code, *, reason):
        super().__init__(reason)


@pytest.mark.parametrize("error", [OSError("disk full"), Taciturn(), Demanding(1, reason="no")])
def test_every_error_can_be_told_more(error):
    told = rescue.with_note(error, "saved as x.latent")
    assert str(error) in str(told) and "saved as x.latent" in str(told)
    assert isinstance(told, type(error)) or type(error).__name__ in str(told)


def test_that_does_not_hang_on_asserts():
    """Python leaves those out with -O."""
    source = Path(rescue.__file__).read_text()
    optimised = {**vars(rescue)}
    exec(compile(source, rescue.__file__, "exec", optimize=1), optimised)
    assert "saved as x.latent" in str(optimised["with_note"](Taciturn(), "saved as x.latent"))
