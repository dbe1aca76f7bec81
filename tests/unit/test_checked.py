"""Sound and frame rates of every kind that other nodes give: taken as ComfyUI's own nodes take them, or refused."""

import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from . import in_comfyui

from async_frame_pipeline.nodes.checked import checked_audio, checked_fps, trimmed_audio
from async_frame_pipeline.nodes.latent_video import LatentVideo
from async_frame_pipeline.nodes.video_source import source_of

from ..server.pack.inputs import _Video

ALIKE = settings(deadline=None, derandomize=True)

SAMPLES = torch.sin(torch.arange(2 * 300) / 7).mul(0.5).view(2, 300)


class Lazy(Mapping):
    """As the loaders of VideoHelperSuite give it: read when somebody asks for it, which may fail then."""

    def __init__(self, load):
        self._load, self._dict = load, None

    def _loaded(self) -> dict:
        self._dict = self._load() if self._dict is None else self._dict
        return self._dict

    def __getitem__(self, key):
        return self._loaded()[key]

    def __iter__(self):
        return iter(self._loaded())

    def __len__(self):
        return len(self._loaded())


class Keys:
    """No Mapping: it answers to the two keys, which is all that the stock nodes ask for."""

    def __init__(self, audio):
        self._audio = audio

    def __getitem__(self, key):
        return self._audio[key]


HOLDERS = {"dict": dict, "lazy": lambda audio: Lazy(lambda: audio), "keys": Keys}
RATES = {
    "int": 44100,
    "float": 44100.0,
    "float with a rest": 44100.9,
    "Fraction": Fraction(44100),
    "Decimal": Decimal(44100),
    "text": "44100",
    "text of a float": "44100.0",
    "numpy int": np.int32(44100),
    "numpy float": np.float32(44100),
    "torch": torch.tensor(44100),
    "torch, one element": torch.tensor([44100.0]),
}
WAVEFORMS = {
    "float32": SAMPLES[None],
    "float64": SAMPLES[None].double(),
    "float16": SAMPLES[None].half(),
    "bfloat16": SAMPLES[None].bfloat16(),
    "with a gradient": SAMPLES[None].clone().requires_grad_(),
    "a view": torch.cat((SAMPLES, SAMPLES)).view(2, 2, 300).flip(0),
    "without a batch": SAMPLES,
    "uint8": (SAMPLES[None] * 128 + 128).round().to(torch.uint8),
    "int16": (SAMPLES[None] * 2**15).round().to(torch.int16),
    "int32": (SAMPLES[None].double() * 2**31).round().to(torch.int32),
    "numpy float32": SAMPLES[None].numpy(),
    "numpy float64": SAMPLES[None].double().numpy(),
    "numpy int16": (SAMPLES[None] * 2**15).round().to(torch.int16).numpy(),
    "numpy, backwards": np.ascontiguousarray(SAMPLES[None].numpy()[..., ::-1])[..., ::-1],
    "numpy, another order of bytes": SAMPLES[None].numpy().astype(">f4"),
    "numpy, not to be written to": np.frombuffer(SAMPLES.numpy().tobytes(), np.float32).reshape(1, 2, 300),
    "list": SAMPLES[None].tolist(),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("rate", RATES)
def test_whatever_answers_to_the_keys_is_sound(holder, rate):
    given_as = HOLDERS[holder]({"waveform": SAMPLES[None], "sample_rate": RATES[rate]})
    audio = checked_audio(given_as)
    assert type(audio.sample_rate) is int and audio.sample_rate == 44100 and audio.samples.shape == (2, 300)


@pytest.mark.parametrize("waveform", WAVEFORMS)
def test_samples_of_any_type_are_the_same_sound(waveform):
    given_as = {"waveform": WAVEFORMS[waveform], "sample_rate": 44100}
    audio = checked_audio(given_as)
    assert audio.samples.dtype == np.float32 and audio.samples.shape == (2, 300)
    assert np.abs(audio.samples - SAMPLES.numpy()).max() < 1 / 100
    part = checked_audio(trimmed_audio(given_as, Fraction(1, 441), Fraction(2, 441)))
    assert np.array_equal(part.samples, audio.samples[:, 100:200]) and part.sample_rate == 44100


def test_one_row_of_samples_is_mono():
    assert checked_audio({"waveform": SAMPLES[0], "sample_rate": 8000}).samples.shape == (1, 300)


def test_the_first_clip_of_a_batch_is_taken():
    batch = torch.stack((SAMPLES, -SAMPLES))
    assert np.array_equal(checked_audio({"waveform": batch, "sample_rate": 8000}).samples, SAMPLES.numpy())


@pytest.mark.parametrize(
    "audio",
    [
        None,
        {},
        Lazy(dict),
        {"waveform": torch.zeros(1, 1, 0), "sample_rate": 44100},
        {"waveform": torch.zeros(1, 0, 300), "sample_rate": 44100},
        {"waveform": torch.zeros(0, 2, 300), "sample_rate": 44100},
        {"waveform": np.zeros((1, 0)), "sample_rate": 44100},
        {"waveform": [], "sample_rate": 1},
    ],
    ids=str,
)
def test_nothing_to_hear_is_no_sound(audio):
    assert checked_audio(audio) is None and trimmed_audio(audio, Fraction(0), Fraction(1)) is None


def test_empty_sound_is_told_once(caplog):
    caplog.set_level("INFO")
    silent = {"waveform": torch.zeros(1, 1, 0), "sample_rate": 44100}
    assert source_of(_Video(torch.rand(2, 8, 8, 3), 8, silent)).sound is None
    assert [record.message.count("without sound") for record in caplog.records] == [1]


REFUSED = [
    {"waveform": SAMPLES[None]},
    {"sample_rate": 44100},
    {"waveform": None, "sample_rate": 44100},
    {"waveform": "x", "sample_rate": 44100},
    {"waveform": 0.5, "sample_rate": 44100},
    {"waveform": np.float32(0.5), "sample_rate": 44100},
    {"waveform": torch.tensor(0.5), "sample_rate": 44100},
    {"waveform": SAMPLES[None, None], "sample_rate": 44100},
    {"waveform": SAMPLES[None] * 1j, "sample_rate": 44100},
    {"waveform": torch.zeros(1, 2, 300, dtype=torch.bool), "sample_rate": 44100},
    {"waveform": torch.zeros(1, 2, 300, dtype=torch.int64), "sample_rate": 44100},
    {"waveform": [[1.0, 2.0], [3.0]], "sample_rate": 44100},
    {"waveform": torch.zeros(1, 9, 300), "sample_rate": 44100},
    {"waveform": torch.zeros(1, 300, 2), "sample_rate": 44100},
    *(
        {"waveform": SAMPLES[None], "sample_rate": rate}
        for rate in (None, 0, 0.5, -44100, math.nan, math.inf, True, "", "fast", [44100], torch.zeros(2))
    ),
    SAMPLES,
    [SAMPLES, 44100],
    (SAMPLES[None], 44100),
    "sound.wav",
    7,
    object(),
]


@pytest.mark.parametrize("audio", REFUSED, ids=lambda audio: ascii(audio)[:60])
def test_what_is_no_sound_is_refused(audio):
    for given_as in [audio, Lazy(lambda: audio)] if isinstance(audio, dict) else [audio]:
        with pytest.raises(ValueError, match="[Tt]he audio holds no samples|audio with [0-9]+ channels") as refused:
            checked_audio(given_as)
        assert len(str(refused.value)) < 500
        with pytest.raises(ValueError):
            source_of(_Video(torch.rand(2, 8, 8, 3), 8, given_as))


def failing(message: str):
    def load():
        raise Exception(message)

    return Lazy(load)


def test_a_loader_that_finds_no_sound_in_its_file_gives_none(caplog):
    caplog.set_level("INFO")
    words = "VHS failed to extract audio from clip.mp4:\nOutput #0: Output file does not contain any stream"
    assert checked_audio(failing(words)) is None
    assert "a file that has no sound" in caplog.text


def test_a_loader_that_fails_is_heard():
    with pytest.raises(Exception, match="clip.mp4 is gone"):
        checked_audio(failing("clip.mp4 is gone"))


@torch.inference_mode()
def test_a_latent_with_sound_that_is_read_late():
    """Its components keep the sound as it was given; a part of it is cut."""
    audio = Lazy(lambda: {"waveform": SAMPLES[None], "sample_rate": np.int64(100)})
    video = LatentVideo(in_comfyui.vae("wan 2.1"), {"samples": torch.randn(1, 16, 2, 4, 4)}, Fraction(2), audio)
    assert video.audio.seconds == 3 and video.get_components().audio is audio
    part = video.as_trimmed(1, 1)
    assert part.audio.seconds == 1 and part.get_components().audio["waveform"].shape == (1, 2, 100)


@torch.inference_mode()
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_latent_that_answers_to_its_key_is_decoded(holder):
    """As the stock VAE Decode asks for it."""
    latent = torch.randn(1, 16, 2, 4, 4)
    video = LatentVideo(in_comfyui.vae("wan 2.1"), HOLDERS[holder]({"samples": latent}), Fraction(2))
    assert video.get_components().images.shape == (5, 32, 32, 3)


@pytest.mark.parametrize("samples", [None, 7, "x", [1], {}, Lazy(dict), torch.zeros(1, 16, 2, 4, 4)], ids=str)
def test_what_is_no_latent_is_refused(samples):
    with pytest.raises(ValueError, match="There is nothing to decode"):
        LatentVideo(in_comfyui.vae("wan 2.1"), samples, Fraction(2))


# -- numbers that are no sound -------------------------------------------------------------------------


@pytest.mark.parametrize("loudest", [3.0, 127.0, 32767.0, 2.0**31, 1e30])
def test_whole_numbers_that_somebody_made_floats_are_no_noise(loudest, caplog):
    caplog.set_level("INFO")
    audio = checked_audio({"waveform": SAMPLES[None] / SAMPLES.abs().max() * loudest, "sample_rate": 44100})
    assert np.abs(audio.samples - (SAMPLES / SAMPLES.abs().max()).numpy()).max() < 1e-6
    assert caplog.text.count("divided") == 1


@ALIKE
@given(st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1.5, 0.0, 0.5]), min_size=1, max_size=9))
def test_a_waveform_of_anything_is_taken(values):
    samples = torch.tensor(values)[None, None]
    before = samples.clone()
    assert checked_audio({"waveform": samples, "sample_rate": 8000}).samples.shape == (1, len(values))
    assert torch.equal(samples.nan_to_num(), before.nan_to_num()), "the node's own samples are left as they are"


def test_sound_in_range_is_not_touched():
    samples = torch.full((1, 2, 10), 1.0)
    assert checked_audio({"waveform": samples, "sample_rate": 8000}).samples.max() == 1
    samples[0, 0, 0] = 1.5  # clipped where it is written
    assert checked_audio({"waveform": samples, "sample_rate": 8000}).samples.max() == 1.5


# -- frames per second ---------------------------------------------------------------------------------


@ALIKE
@given(st.floats(0.01, 1000))
@example(0.9095)  # halfway between two thousandths, but for what a float cannot hold
def test_floats_become_what_the_stock_nodes_make_of_them(fps):
    stock = Fraction(round(Fraction(fps) * 1000), 1000)
    for given_as in (fps, np.float64(fps), torch.tensor(fps, dtype=torch.float64)):
        assert checked_fps(given_as) == stock
    assert checked_fps(np.float32(23.976)) == checked_fps(23.976) == Fraction(2997, 125)


@ALIKE
@given(st.fractions(Fraction(1, 100), 1000, max_denominator=10_000))
def test_exact_rates_stay_exact(fps):
    assert checked_fps(fps) == checked_fps(f"{fps.numerator}/{fps.denominator}") == fps
    assert checked_fps(Fraction(24000, 1001)) == Fraction(24000, 1001)


@pytest.mark.parametrize("fps", ["24", 24, 24.0, np.int64(24), np.float32(24), torch.tensor(24), Decimal("24"), "24.0"])
def test_24_is_24(fps):
    assert checked_fps(fps) == 24


@pytest.mark.parametrize(
    "fps",
    [0, -1, 1001, 1e-4, math.nan, math.inf, True, None, "abc", "", "0/1", "-24", "1e999999999", [24], np.zeros(2), {}],
    ids=str,
)
def test_what_is_no_rate_is_refused(fps):
    with pytest.raises(ValueError, match="fps must be a number above 0 and at most 1000, got"):
        checked_fps(fps)
