"""Whether a ComfyUI's `VAE.decode` is one whose place may be taken, by what it does and not by how it looks."""

import inspect

import pytest
import torch

from . import in_comfyui

import comfy.model_management
import comfy.sd
from async_frame_pipeline.nodes.comfyui import vaes

UNKNOWN = "this ComfyUI decodes in a way this version of the pack does not know"


@pytest.fixture
def changed(monkeypatch):
    """Replace a piece of the source of `VAE.decode`, as a later ComfyUI would."""

    def change(old, new):
        lines = inspect.getsource(comfy.sd.VAE.decode).splitlines()
        source = "\n".join(line[4:] for line in lines)
        assert old in source
        made = {}
        exec(compile(source.replace(old, new), comfy.sd.__file__, "exec"), comfy.sd.__dict__, made)
        monkeypatch.setattr(comfy.sd.VAE, "decode", made["decode"])

    return change


@pytest.mark.parametrize("kind", ["wan 2.1", "wan 2.2", "taehv", "ltx"])
def test_the_one_under_test_is_known(kind):
    """In one way: into a buffer if its model takes one, and only then."""
    vae = in_comfyui.vae(kind)
    assert [vaes.why_not_known(vae, into_buffer) for into_buffer in (kind == "ltx", kind != "ltx")] == [None, UNKNOWN]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("vae_options={}", "vae_options={}, tile_hint=None"),
        ("vae_options={}", "vae_options={}, *, tile_hint=None"),
        ("self.throw_exception_if_invalid()", "self.throw_exception_if_invalid(); self.decodes = 1"),
    ],
    ids=["one more keyword", "a keyword-only one", "more around it"],
)
def test_more_than_is_used_changes_nothing(changed, old, new):
    changed(old, new)
    assert vaes.why_not_known(in_comfyui.vae("wan 2.1")) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.throw_exception_if_invalid()", "samples_in = samples_in * 0.5"),
        ("model.decode(samples, **vae_options)", "model.decode(samples, scale=2, **vae_options)"),
        ("pixel_samples.to(self.output_device)", "pixel_samples.to(self.output_device) * 0.5"),
        ("self.process_output(pixel_samples[x:x+batch_number])", "pass"),
        ("vae_options={}", "vae_options"),
    ],
    ids=["another latent", "another argument", "other frames", "no process_output", "one that must be given"],
)
def test_another_way_from_latent_to_frames_is_not_known(changed, old, new):
    changed(old, new)
    assert vaes.why_not_known(in_comfyui.vae("wan 2.1")) == UNKNOWN


@pytest.mark.parametrize("kind", ["image", "svd", "mochi"])
def test_how_batches_are_decoded_is_known(kind):
    assert vaes.why_not_in_batches(in_comfyui.vae(kind)) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("batch_number = max(1, batch_number)", "batch_number = 1"),
        ("samples_in[x:x + batch_number].to(", "samples_in[x:x + batch_number].mul(0.5).to("),
        ("model.decode(samples, **vae_options)", "model.decode(samples, scale=2, **vae_options)"),
        ("self.process_output(pixel_samples[x:x+batch_number])", "pass"),
    ],
    ids=["other batches", "another latent", "another argument", "no process_output"],
)
@pytest.mark.parametrize("kind", ["image", "mochi"])
def test_other_batches_are_not_known(changed, kind, old, new):
    changed(old, new)
    assert vaes.why_not_in_batches(in_comfyui.vae(kind)) == UNKNOWN


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("output_buffer=pixel_samples[x:x+batch_number]", "output_buffer=pixel_samples[x:x+batch_number], seed=0"),
        ("output_buffer=pixel_samples[x:x+batch_number]", "buffer=pixel_samples[x:x+batch_number]"),
        ("output_buffer=pixel_samples[x:x+batch_number]", "output_buffer=pixel_samples[x:x+batch_number, :, 1:]"),
        ("decode_output_shape(samples_in.shape)", "decode_output_shape(samples_in.shape[1:])"),
        ("model.decode(samples, output_buffer", "model.decode(samples * 0.5, output_buffer"),
        ("'comfy_has_chunked_io'", "'comfy_has_streamed_io'"),
        ("pixel_samples.to(self.output_device)", "pixel_samples.to(self.output_device) * 0.5"),
    ],
    ids=["another argument", "another name", "another part", "another size", "another latent", "no buffer", "frames"],
)
def test_another_way_into_a_buffer_is_not_known(changed, old, new):
    changed(old, new)
    assert vaes.why_not_known(in_comfyui.vae("ltx"), into_buffer=True) == UNKNOWN


def test_asking_changes_nothing(monkeypatch):
    """Neither a model is loaded, nor the VAE touched, nor a random number drawn."""
    monkeypatch.setattr(vaes, "_is_known", {})
    loads = []
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *args, **kwargs: loads.append(args))
    for kind in ("wan 2.1", "ltx"):
        vae = in_comfyui.vae(kind)
        before, state = [dict(vars(each)) for each in (vae, vae.first_stage_model)], torch.get_rng_state()
        vaes.why_not_known(vae, kind == "ltx")
        assert [vars(vae), vars(vae.first_stage_model)] == before
        assert torch.equal(torch.get_rng_state(), state) and loads == []


def test_a_decode_of_another_pack_is_said():
    vae = in_comfyui.vae("wan 2.1")
    vae.first_stage_model.decode = lambda latent: latent
    assert vaes.why_not_known(vae) == "another node or pack replaced the VAE's decode"
