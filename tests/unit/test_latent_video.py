"""The VIDEO that is still a latent: what it tells without decoding."""

import io
import json
from fractions import Fraction

import logging

import av
import numpy as np
import pytest
import torch

from . import in_comfyui

from async_frame_pipeline.nodes import decoding
from async_frame_pipeline.nodes.comfyui import server, vaes
from async_frame_pipeline.nodes.latent_video import LatentVideo
from async_frame_pipeline.pipeline.sinks.tensor import TensorSink


@torch.inference_mode()
def test_a_vae_whose_ratios_do_not_tell_the_size_decodes_once_for_it():
    vae, decodes = in_comfyui.vae("image"), []
    vae.latent_dim = 1  # as those of sound, of which nothing is known
    decode = vae.first_stage_model.decode
    vae.first_stage_model.decode = lambda *args: decodes.append(args) or decode(*args)
    video = LatentVideo(vae, {"samples": torch.randn(2, 4, 3, 5)}, Fraction(16))
    assert video.get_dimensions() == (40, 24) and video.get_frame_count() == 2 and video.get_duration() == 2 / 16
    part = video.as_trimmed(1 / 16)
    assert part.get_dimensions() == (40, 24) and part.get_frame_count() == 1
    assert len(decodes) == 1


@pytest.mark.parametrize("kind, channels", [("wan 2.1", 16), ("wan 2.2", 48)])
@torch.inference_mode()
def test_an_image_latent_of_which_the_stock_node_says_tuple_index_out_of_range(kind, channels):
    vae, samples = in_comfyui.vae(kind), {"samples": torch.randn(1, channels, 4, 6)}
    with pytest.raises(IndexError):
        vaes.stock_decode(vae, samples)  # one that decodes it will need no refusal
    for decode in (lambda: decoding.decode_image(vae, samples), lambda: LatentVideo(vae, samples, Fraction(16))):
        with pytest.raises(
            ValueError, match=r"\(batch, channels, frames, height, width\), and this one is \(1, \d\d, 4"
        ):
            decode()


@pytest.mark.parametrize("kind, shape", [("taehv", (2, 16, 4, 6)), ("image", (2, 4, 4, 6)), ("image", (1, 4, 2, 4, 6))])
@torch.inference_mode()
def test_what_the_stock_node_makes_of_other_axes_is_made(kind, shape):
    vae, samples = in_comfyui.vae(kind), {"samples": torch.randn(shape)}
    assert torch.equal(decoding.decode_image(vae, samples), vaes.stock_decode(vae, samples))


@torch.inference_mode()
def test_a_second_decode_for_the_same_prompt_is_said(monkeypatch, caplog):
    """A part of it is the same latent; another prompt is another matter."""
    caplog.set_level(logging.INFO, "async-frame-pipeline")
    video = LatentVideo(in_comfyui.vae("wan 2.1"), {"samples": torch.randn(1, 16, 2, 4, 6)}, Fraction(8))

    def decoded_again(prompt_id, decode) -> bool:
        monkeypatch.setattr(server, "running_prompt_id", lambda: prompt_id)
        caplog.clear()
        report = decode()
        said = any("decoded again: another node" in record.getMessage() for record in caplog.records)
        assert not hasattr(report, "decoded_again") or report.decoded_again is said
        return said

    def save():
        return video.decode_into([TensorSink()])

    assert not decoded_again("first", save)
    assert decoded_again("first", save)
    assert decoded_again("first", video.get_components)
    assert decoded_again("first", lambda: video.as_trimmed(0.125).decode_into([TensorSink()]))
    assert not decoded_again("second", video.as_trimmed(0.125).get_components)
    assert decoded_again("second", save)
    assert not decoded_again(None, save) and not decoded_again(None, save), "ComfyUI used as a library"


@torch.inference_mode()
def test_the_metadata_of_a_stock_saver_never_costs_the_video(caplog):
    """Save Video of ComfyUI hands over what other nodes left in the prompt."""
    video = LatentVideo(in_comfyui.vae("wan 2.1"), {"samples": torch.randn(1, 16, 2, 4, 4)}, Fraction(16))
    buffer = io.BytesIO()
    video.save_to(buffer, metadata={"workflow": {"nodes": []}, "prompt": {"1": {"is_changed": [np.bool_(True)]}}, 7: 1})
    with av.open(io.BytesIO(buffer.getvalue())) as container:
        assert json.loads(container.metadata["prompt"]) == {"1": {"is_changed": [None]}}
        assert json.loads(container.metadata["workflow"]) == {"nodes": []}
    assert caplog.text.count("left out of the stored workflow") == 1
