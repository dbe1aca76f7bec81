"""A VIDEO that is still a latent: decoded when, and as far as, somebody asks for its frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from comfy_api.latest import Input, Types

from ..pipeline.ends import Ends
from ..pipeline.report import Report
from ..pipeline.sinks import Sink
from ..pipeline.sinks.formats import FORMATS, Choice
from ..pipeline.sinks.tensor import TensorSink
from ..pipeline.sinks.video_file import VideoFileSink, VideoOptions
from . import decoding, families, rescue
from .checked import checked_audio, trimmed_audio
from .comfyui import server
from .comfyui.tiling import Tiling
from .log import say
from .version import signed

# What ComfyUI's own savers make of a video: with x264's default quality.
STOCK_FORMAT, STOCK_QUALITY = FORMATS["mp4 (h264)"], "medium"


class LatentVideo(Input.Video):
    """A VIDEO over a LATENT and a VAE.

    Saving runs the lanes straight into the encoder and never holds the frames; asking for components
    runs them into a tensor. Nothing decoded is kept, so each consumer decodes anew, which is said: ComfyUI could not
    see, or free, frames kept in here, and two savers run one after the other.

    Args:
        vae, samples: VAE and LATENT.
        fps: frames per second.
        audio: ComfyUI's AUDIO or None, see `checked_audio`.
        bit_depth: 8 or 10, of files saved from it.
        window: (start, stop) frames of the decoded video this one consists of; None for all of it.
        decoder: one of `decoding.DECODERS`.
        save_first: write the latents to disk before each decode; see `rescue.rescuing`.
        tiling: see `decoding.decode_image`.
    Raises:
        ValueError: a value that could not be saved, so that it shows where it was set and not where
            the video is used.
    """

    def __init__(
        self,
        vae,
        samples: dict,
        fps: Fraction,
        audio: dict | None = None,
        bit_depth: int = 8,
        window=None,
        decoder: str = "auto",
        save_first: bool = False,
        tiling: Tiling | None = None,
    ):
        families.check(vae, samples)
        self._vae, self._samples, self._audio_dict = vae, samples, audio
        Choice(STOCK_FORMAT, bit_depth=bit_depth)
        self._fps, self._bit_depth, self._window = fps, bit_depth, window
        self._decoder, self._save_first = decoding.checked_decoder(decoder), save_first
        self._tiling = tiling
        self.audio = checked_audio(audio)
        self._size = families.size_of(vae, samples, tiling)
        self._decoded_in: list[str | None] = []  # the prompt that had it decoded last; shared by its parts

    @property
    def patcher(self):
        """ComfyUI counts objects that show a patcher as users of the model behind it."""
        return self._vae.patcher

    def rescuing(self, first: bool = False):
        """For whoever uses this video: should that fail, the latents are saved; see `rescue.rescuing`."""
        return rescue.rescuing(self._samples, first)

    # -- frames ---------------------------------------------------------------------------------

    def get_components(self) -> Types.VideoComponents:
        """Decode into one IMAGE, with the audio as it was given, or cut with the video."""
        if self._window is None:
            self._is_decoded_again()
            with self.rescuing(self._save_first):
                images = decoding.decode_image(self._vae, self._samples, self._decoder, self._tiling)
        else:
            sink = TensorSink(self.image_dtype())
            self.decode_into([sink])
            images = sink.frames_thwc
        return Types.VideoComponents(images=images, audio=self._audio_dict, frame_rate=self._fps)

    def decode_into(
        self,
        sinks: Sequence[Sink],
        frames: int | None = None,
        spectators: Sequence[Sink] = (),
        ends: Ends | None = None,
    ) -> Report:
        """Decode all frames, or the first few, into sinks; for spectators and ends see `engine.run`."""
        window = self._window
        if frames is not None and frames < self.get_frame_count():
            first = window[0] if window else 0
            window = (first, first + frames)
        again = self._is_decoded_again()
        with self.rescuing(self._save_first):
            report = decoding.decode_into(
                self._vae, self._samples, sinks, window, self._decoder, spectators, ends, self._tiling
            )
        report.decoded_again = again
        return report

    def _is_decoded_again(self) -> bool:
        """Whether another node of the prompt that runs had it decoded before; says so."""
        prompt_id = server.running_prompt_id()
        again = prompt_id is not None and self._decoded_in == [prompt_id]
        self._decoded_in[:] = [prompt_id]
        if again:
            say(
                "decoded again: another node of this workflow used this video before. To decode it once, use the "
                "outputs of Save Video (Streaming): the saved video, and its frames"
            )
        return again

    def image_dtype(self) -> torch.dtype:
        """What the frames are as an IMAGE."""
        dtype = decoding.image_dtype(self._vae, self._tiling)
        return dtype if dtype in (torch.float32, torch.float16) else torch.float32

    def save_to(self, path, format="auto", codec="auto", metadata=None, bit_depth=None, crf=None):
        """Save as the stock savers ask for it: MP4 with H.264, x264's default quality; `path` may be a BytesIO."""
        if format not in ("auto", "mp4") or codec not in ("auto", "h264"):
            raise ValueError(
                f"This video saves as MP4 with H.264; got format '{format}' and codec '{codec}'. "
                "Save Video (Streaming) has others."
            )
        choice = Choice(STOCK_FORMAT, STOCK_QUALITY, bit_depth=bit_depth or self._bit_depth, crf=crf)
        options = VideoOptions(self._fps, choice, self.audio, metadata=signed(metadata) if metadata else {})
        self.decode_into([VideoFileSink(path, options)])

    def as_trimmed(self, start_time=None, duration=None, strict_duration=False) -> LatentVideo | None:
        """The part from `start_time` (seconds; from the end if negative) for `duration` (0: all the rest).

        A frame belongs to the part it begins in. None if nothing is left, or less than `duration` when that is strict.
        """
        fps, frames = self._fps, self.get_frame_count()
        start, duration = Fraction(start_time or 0), Fraction(duration or 0)
        if start < 0:
            start = max(start + frames / fps, Fraction(0))
        end = start + duration if duration else frames / fps
        if strict_duration and end > frames / fps:
            return None
        # Times are floats: a frame that begins within a millionth of a second of the cut is on it.
        slack = Fraction(1, 1_000_000)
        first = math.ceil((start - slack) * fps)
        stop = min(frames, math.ceil((end - slack) * fps))
        if first >= stop:
            return None
        offset = self._window[0] if self._window else 0
        part = LatentVideo(
            self._vae,
            self._samples,
            fps,
            trimmed_audio(self._audio_dict, first / fps, stop / fps),
            self._bit_depth,
            (offset + first, offset + stop),
            self._decoder,
            self._save_first,
            self._tiling,
        )
        part._size, part._decoded_in = self._size, self._decoded_in
        return part

    # -- facts, told without decoding -----------------------------------------------------------

    def _decoded_size(self) -> tuple[int, int, int]:
        """(frames, height, width) of all of it."""
        if self._size is None:  # a VAE whose ratios do not tell
            with self.rescuing(self._save_first):
                frames_thwc = decoding.decode_image(self._vae, self._samples, self._decoder, self._tiling)
            self._size = tuple(frames_thwc.shape[:3])
        return self._size

    def get_dimensions(self) -> tuple[int, int]:
        _, height, width = self._decoded_size()
        return width, height

    def get_frame_count(self) -> int:
        return self._window[1] - self._window[0] if self._window else self._decoded_size()[0]

    def get_frame_rate(self) -> Fraction:
        return self._fps

    def get_duration(self) -> float:
        return float(self.get_frame_count() / self._fps)

    def get_bit_depth(self) -> int:
        return self._bit_depth

    def get_container_format(self) -> str:
        # What PyAV calls an MP4 it reads.
        return "mov,mp4,m4a,3gp,3g2,mj2"
