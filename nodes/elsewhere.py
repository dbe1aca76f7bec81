"""Save Video (Decode Elsewhere), Decode Elsewhere, Collect Decoded Video: the latents leave, and videos come back.

Thin: what leaves is in `elsewhere_files`, who sends and collects in `elsewhere_collector`, what is remembered in
`elsewhere_jobs`. `farm/` is imported when there is a farm, and not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import tempfile
import uuid
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from comfy_api.latest import InputImpl, io

from ..pipeline.decoders import families as known
from ..pipeline.sinks import formats
from ..pipeline.sinks.formats import FORMATS
from ..pipeline.text import Text
from . import elsewhere_files, families, rescue, saver_inputs, values
from .checked import checked_audio, checked_fps
from .comfyui import lanes, late, server
from .comfyui.queued import CheckedWhenQueued
from .elsewhere_collector import Parcel, Unreachable, collector
from .elsewhere_jobs import OUTPUT, Sent, output_of
from .families import wan
from .inputs import samples_input, video_inputs
from .latent_video import LatentVideo
from .log import say
from .save_video import bit_depth_input, quality_input, save
from .saver_inputs import AUTO, SaverInputs
from .version import described
from .video_source import source_of

PRIORITIES = ("std", "pro")
HERE, ERROR = "decode here", "error"
# Those that a job can ask for: see farm/messages.py.
CONTAINERS = ("mp4", "mkv")
LOOK_SECONDS = 0.1


class _Offered(list):
    """The formats to choose from. Those that only another machine has are not on it, and not refused either."""

    def __contains__(self, name: object) -> bool:
        return name in list(FORMATS) and FORMATS[name].extension in CONTAINERS


def _formats() -> list[str]:
    return [name for name in formats.available_formats() if FORMATS[name].extension in CONTAINERS]


def _decode_inputs() -> list[io.Input]:
    vae = io.Vae.Input("vae", tooltip="The VAE used for decoding. Its weights are sent once.")
    return [samples_input(), vae, *video_inputs(fps=16.0)[:1]]


def _audio_input() -> io.Input:
    return video_inputs(fps=16.0)[1]


def _file_inputs(quality: str) -> list[io.Input]:
    return [
        io.Combo.Input(
            "format",
            options=_Offered(_formats()),
            default="mp4 (h264)",
            optional=True,
            tooltip="Container and codec of the file.",
        ),
        quality_input(quality),
        bit_depth_input(),
    ]


def _farm_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "priority",
            options=list(PRIORITIES),
            default=PRIORITIES[0],
            optional=True,
            tooltip="pro: the job is the next to start, before all that are std.",
        ),
        io.Combo.Input(
            "if_unreachable",
            options=[HERE, ERROR],
            default=HERE,
            optional=True,
            tooltip="What to do where no farm answers, or it cannot decode this: decode here, or stop with an error. "
            "The node says why.",
        ),
    ]


def _job_output() -> io.String.Output:
    return io.String.Output(display_name="job", tooltip="The job's id, for Collect Decoded Video.")


def _video_output() -> io.Video.Output:
    return io.Video.Output(tooltip="A video for any saver or video node.")


SEARCH = ["decode elsewhere", "remote vae", "remote decode", "farm", "second gpu", "offload decode", "queue", "async"]


class AsyncSaveVideoElsewhere(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="AsyncSaveVideoElsewhere",
            display_name="Save Video (Decode Elsewhere)",
            category="video",
            description=described(
                "Sends the latent to another GPU, machine or CPU, which decodes and encodes it, and ends at once: the "
                "next prompt starts meanwhile. The video is saved and shown here when it is done."
            ),
            search_aliases=["save video", "export video", "vae decode", "mp4", *SEARCH],
            inputs=[
                *_decode_inputs(),
                io.String.Input(
                    "filename_prefix",
                    default="video/ComfyUI",
                    tooltip="Where to save, inside the output folder. May hold %date:yyyy-MM-dd% and values of other "
                    "nodes such as %Empty Latent Image.width%.",
                ),
                _audio_input(),
                *_file_inputs("high"),
                *_farm_inputs(),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id, io.Hidden.dynprompt],
            is_output_node=True,
            outputs=[_job_output()],
        )

    validate_inputs = CheckedWhenQueued(
        "AsyncSaveVideoElsewhere",
        saver_inputs.fault_of_values_when_queued,
        saver_inputs.fault_alone,
        "filename_prefix",
    )

    @classmethod
    def fingerprint_inputs(cls, **inputs) -> str:
        return collector().fingerprint(cls.hidden.unique_id)

    @classmethod
    def execute(
        cls,
        samples,
        vae,
        fps,
        filename_prefix,
        audio=None,
        format="mp4 (h264)",
        quality="high",
        bit_depth=AUTO,
        priority="std",
        if_unreachable=HERE,
    ) -> io.NodeOutput:
        with rescue.rescuing(samples):
            inputs = SaverInputs.of(
                {"filename_prefix": filename_prefix, "format": format, "quality": quality, "bit_depth": bit_depth}
            )
            order = _Order(vae, samples, fps, audio, inputs, priority, if_unreachable)
            sent = _sent(cls.hidden, inputs.filename_prefix)
            try:
                order.send(sent)
            except Unreachable as unreachable:
                video, note = order.decoded_here(unreachable)
                saved = save(video, source_of(video), inputs, cls.hidden, [note])
                shown = {"images": [dict(image) for image in saved.ui["images"]], "animated": [True]}
                collector().jobs.keep(sent, state="here", reason=str(note), path=saved[2], ui=shown)
                return io.NodeOutput(sent.job_id, ui=saved.ui | {OUTPUT: [json.dumps(sent.told())]})
            return io.NodeOutput(sent.job_id, ui=output_of([sent]))


class AsyncDecodeElsewhere(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="AsyncDecodeElsewhere",
            display_name="Decode Elsewhere",
            category="video",
            description=described(
                "Sends the latent to another GPU, machine or CPU and waits for the decoded video. Other branches of "
                "the prompt go on meanwhile, the next prompt does not."
            ),
            search_aliases=["vae decode", "latent to video", *SEARCH],
            inputs=[*_decode_inputs(), _audio_input(), *_file_inputs("very high"), *_farm_inputs()],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id, io.Hidden.dynprompt],
            outputs=[_video_output()],
        )

    validate_inputs = CheckedWhenQueued(
        "AsyncDecodeElsewhere", saver_inputs.fault_of_values_when_queued, saver_inputs.fault_alone, "fps"
    )

    @classmethod
    def fingerprint_inputs(cls, **inputs) -> str:
        return collector().fingerprint(cls.hidden.unique_id)

    @classmethod
    async def execute(
        cls,
        samples,
        vae,
        fps,
        audio=None,
        format="mp4 (h264)",
        quality="very high",
        bit_depth=AUTO,
        priority="std",
        if_unreachable=HERE,
    ) -> io.NodeOutput:
        with rescue.rescuing(samples):
            inputs = SaverInputs.of(
                {"filename_prefix": "x", "format": format, "quality": quality, "bit_depth": bit_depth}
            )
            order = _Order(vae, samples, fps, audio, inputs, priority, if_unreachable)
            sent = _sent(cls.hidden, None)
            try:
                order.send(sent)
            except Unreachable as unreachable:
                video, note = order.decoded_here(unreachable)
                sent.state, sent.reason = "here", str(note)
                return io.NodeOutput(video, ui=output_of([sent]))
            try:
                path = await _ended(sent)
            except BaseException as error:
                if sent.is_open:
                    collector().cancel(sent)
                raise error
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=output_of([sent]))


class AsyncCollectVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="AsyncCollectVideo",
            display_name="Collect Decoded Video",
            category="video",
            description=described("Waits for a job of Save Video (Decode Elsewhere) and gives its video."),
            search_aliases=["load video", "fetch video", *SEARCH],
            inputs=[
                io.String.Input("job", tooltip="The id that Save Video (Decode Elsewhere) gives."),
            ],
            outputs=[_video_output()],
        )

    @classmethod
    async def execute(cls, job) -> io.NodeOutput:
        job_id = str(job).strip()
        try:
            sent = collector().adopt(job_id)
        except Unreachable as error:
            raise RuntimeError(f"The job cannot be collected: {error}") from None
        return io.NodeOutput(InputImpl.VideoFromFile(str(await _ended(sent))))


class _Order:
    """What a node is asked to send, checked before anything leaves.

    Raises:
        ValueError: it cannot be decoded or saved anywhere.
    """

    def __init__(
        self, vae, samples: dict, fps: object, audio: object, inputs: SaverInputs, priority: object, unreachable: object
    ):
        self._vae, self._samples, self._audio, self._inputs = vae, samples, audio, inputs
        self._priority = values.one_of("priority", priority, PRIORITIES)
        self._fps, self._sound = checked_fps(fps), checked_audio(audio)
        self._format = FORMATS[inputs.format]
        if self._format.extension not in CONTAINERS:
            values.one_of("format", inputs.format, _formats())
        self._why_not = elsewhere_files.why_not(vae, samples)
        self._may_stay = values.one_of("if_unreachable", unreachable, (HERE, ERROR)) == HERE

    def send(self, sent: Sent) -> None:
        """Raises:
        Unreachable: it cannot be sent, or not now.
        """
        if self._why_not is not None:
            raise Unreachable(self._why_not)
        collector().send(sent, lambda: self._packed(sent.prefix), elsewhere_files.decoder(self._vae))

    def decoded_here(self, unreachable: Unreachable) -> tuple[LatentVideo, Text]:
        """The video, and the note that says why.

        Raises:
            RuntimeError: that is not what was asked for.
        """
        if not self._may_stay:
            raise RuntimeError(f"This cannot be decoded elsewhere: {unreachable.reason}") from None
        note = Text("decoded here, and not elsewhere: %reason%", reason=unreachable.reason)
        say(note, logging.WARNING)
        return LatentVideo(self._vae, self._samples, self._fps, self._audio), note

    @contextlib.contextmanager
    def _packed(self, prefix: str | None) -> Iterator[Parcel]:
        inputs = self._inputs
        depth = 8 if inputs.bit_depth == AUTO else int(inputs.bit_depth)
        if inputs.bit_depth == AUTO:
            depth = formats.nearest_depth(self._format, self._format.default_chroma, depth)
        params = {
            "fps": str(self._fps),
            "output_type": self._format.extension,
            "format": self._format.name,
            "quality": inputs.quality,
            "bit_depth": depth,
            "decoder": elsewhere_files.decoder(self._vae),
        }
        verdict = wan.verdict(self._vae)
        more = {
            "family": known.of(self._vae).name,
            "verdict": verdict if isinstance(verdict, float) else None,
            "priority": self._priority,
            "need_mb": elsewhere_files.need_mb(self._vae, self._samples),
            "name_prefix": _told_prefix(prefix or "video"),
        }
        with tempfile.TemporaryDirectory(prefix="async-frame-pipeline-") as name:
            folder, sound = Path(name), None
            if self._sound is not None:
                frames, _, _ = families.size_of(self._vae, self._samples)
                seconds = Fraction(frames) / self._fps
                sound = elsewhere_files.write_sound(self._sound, seconds, folder / "sound.flac")
            latent = elsewhere_files.write_latent(self._samples, folder / "a.latent")
            yield Parcel(latent, elsewhere_files.write_vae(self._vae), sound, params, more)


def _sent(hidden, prefix: str | None) -> Sent:
    """What will be remembered of the job of a node that runs; its id is another one once it is sent."""
    node_id, display = hidden.unique_id, hidden.unique_id
    if hidden.dynprompt is not None:
        display = hidden.dynprompt.get_display_node_id(node_id)
    prompt_id = server.running_prompt_id() or uuid.uuid4().hex  # none where ComfyUI is used as a library
    workflow = (hidden.extra_pnginfo or {}).get("workflow")
    workflow_id = str(workflow.get("id") or "") if isinstance(workflow, dict) else ""
    return Sent(uuid.uuid4().hex, prompt_id, node_id, display, workflow_id, late.listener(), prefix)


def _told_prefix(prefix: str) -> str:
    """As a job may say it, which takes no path that leads out, whatever the system; the file is named here."""
    parts = [part.replace(":", "") for part in re.split(r"[\\/]", prefix)]
    path = "/".join(part for part in parts if part not in ("", ".", ".."))
    return "".join(filter(str.isprintable, path))[:200].rstrip("/") or "video"


async def _ended(sent: Sent) -> Path:
    """The file of a job, when it is there.

    Raises:
        RuntimeError: there will be none; says why.
    """
    while sent.is_open:
        lanes.check_cancel()
        await asyncio.sleep(LOOK_SECONDS)
    if not sent.path:
        has_failed = sent.state == "failed"
        error = RuntimeError(f"The job {sent.job_id} {f'failed: {sent.reason}' if has_failed else 'was cancelled'}")
        error.latents_told = has_failed  # the reason says where they are
        raise error
    if not Path(sent.path).is_file():
        raise RuntimeError(f"The video of the job {sent.job_id} was saved as {sent.path}, and is not there any more.")
    return Path(sent.path)
