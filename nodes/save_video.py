"""Save Video (Streaming): any VIDEO into a file, through the lanes."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import av
from comfy_api.latest import InputImpl, io, ui

from ..pipeline.sinks import formats
from ..pipeline.sinks.audio import CODECS
from ..pipeline.sinks.encoders.base import QUALITIES, SPEEDS
from ..pipeline.sinks.formats import CHROMAS, DEPTHS, FORMATS, Choice, FileSink, Format
from ..pipeline.sinks.ping_pong import PingPong
from ..pipeline.sinks.preview import PreviewSink
from ..pipeline.sinks.unfinished import Numbered
from ..pipeline.sinks.video_file import VideoOptions
from . import rescue
from .comfyui import lanes, server
from .latent_video import LatentVideo
from .log import say
from .version import described, signed
from .video_source import image_sink, run, source_of

AUTO = "auto"
BIT_DEPTHS = (AUTO, *map(str, DEPTHS))
COLOURS = {
    "BT.709": ("bt709", False),
    "BT.709 full range": ("bt709", True),
    "BT.601": ("bt601", False),
    "BT.601 full range": ("bt601", True),
}
LENGTHS = ("video", "longest", "shortest")
NOT_KEPT = "Save Video (Streaming) kept no frames: switch on keep_frames to use its frames output."


class SaveVideoStreaming(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SaveVideoStreaming",
            display_name="Save Video (Streaming)",
            category="video",
            description=described(
                "Saves a video to the output folder. A video from Async VAE Decode to Video is encoded while it is "
                "decoded. Colours are BT.709, converted and tagged as such."
            ),
            search_aliases=[
                "save video",
                "export video",
                "video combine",
                "mp4",
                "mkv",
                "webm",
                "mov",
                "gif",
                "webp",
                "png",
                "exr",
                "h264",
                "h265",
                "hevc",
                "av1",
                "vp9",
                "prores",
                "ffv1",
                "nvenc",
                "ffmpeg",
                "vhs",
                "encode video",
                "images to video",
                "image sequence",
                "animated webp",
                "save mp4",
                "save webm",
                "preview video",
                "first frame",
                "last frame",
                "async",
            ],
            inputs=[
                io.Video.Input("video", tooltip="The video to save."),
                io.String.Input(
                    "filename_prefix",
                    default="video/ComfyUI",
                    tooltip="Where to save, inside the output folder. May hold %date:yyyy-MM-dd% and values of other "
                    "nodes such as %Empty Latent Image.width%.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(formats.available_formats()),
                    default="mp4 (h264)",
                    tooltip="Container and codec of the file.",
                ),
                io.Combo.Input(
                    "quality",
                    options=list(QUALITIES),
                    default="high",
                    tooltip="Higher looks better and makes larger files. Medium is what Save Video does. "
                    "Lossless changes nothing that is stored; not every format has it.",
                ),
                # Below, what few need. Optional: prompts made before an input was added go on working.
                io.Combo.Input(
                    "speed",
                    options=list(SPEEDS),
                    default="medium",
                    optional=True,
                    advanced=True,
                    tooltip="How much time the encoder takes. Slower makes smaller files of the same look.",
                ),
                io.Combo.Input(
                    "bit_depth",
                    options=list(BIT_DEPTHS),
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="Bits per colour. Auto: what the video has, or the nearest the format can store.",
                ),
                io.Combo.Input(
                    "chroma",
                    options=[AUTO, *CHROMAS],
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="How finely colour is stored. 4:2:0 plays everywhere; 4:4:4 and rgb keep coloured edges "
                    "sharp. Auto suits the format.",
                ),
                io.Combo.Input(
                    "color",
                    options=list(COLOURS),
                    default="BT.709",
                    optional=True,
                    advanced=True,
                    tooltip="How RGB becomes YUV; the file says which. BT.709 is right for nearly everything.",
                ),
                io.Boolean.Input(
                    "dither",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="A fine, still pattern instead of plain rounding, against bands in smooth gradients.",
                ),
                io.Boolean.Input(
                    "alpha",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Keep transparency where the video has it and the format can store it.",
                ),
                io.Combo.Input(
                    "audio_codec",
                    options=[AUTO, *CODECS],
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="How sound is stored. Auto suits the format.",
                ),
                io.Combo.Input(
                    "audio_length",
                    options=list(LENGTHS),
                    default="video",
                    optional=True,
                    advanced=True,
                    tooltip="video: sound is cut, or padded with silence, to the video. longest: longer sound goes on "
                    "over the last frame. shortest: the video ends where the sound ends.",
                ),
                io.Boolean.Input(
                    "ping_pong",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Play forwards, then backwards. Holds the frames in memory until the end.",
                ),
                io.Int.Input(
                    "repeat",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="How often the video plays in the file. 0: WebP and GIF for ever, all others once.",
                ),
                io.Boolean.Input(
                    "keep_unfinished",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="For long runs: if the run fails, is cancelled or killed, what was written stays as a "
                    "playable file.",
                ),
                io.Boolean.Input(
                    "preview",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="For formats that browsers do not play: also make a small MP4 to show here.",
                ),
                io.Boolean.Input(
                    "keep_frames",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Also give out the frames as images, from the same decode. All of them are then in memory.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
            outputs=[
                io.Video.Output(tooltip="The saved file; for a PNG sequence, the video that came in."),
                io.Image.Output(display_name="frames", tooltip="The frames, if keep_frames is on."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, filename_prefix=None, format=None, quality=None, bit_depth=AUTO, chroma=AUTO, audio_codec=AUTO, repeat=0
    ) -> bool | str:
        """Refuse when the prompt is queued what cannot be saved;
        what another node will give is None, and checked later.

        Named here, these inputs are not looked up in their lists:
        formats that only another machine has are let through.
        """
        try:
            if filename_prefix is not None:
                server.check_prefix(filename_prefix)
            _check(format, quality, bit_depth, chroma, audio_codec, repeat)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, video, keep_frames=False, **inputs) -> io.NodeOutput:
        if not keep_frames and cls._frames_are_used():
            raise ValueError(NOT_KEPT)
        with video.rescuing() if isinstance(video, LatentVideo) else contextlib.nullcontext():
            for name, value in inputs.items():
                if value is None:
                    raise ValueError(f"{name} is None: the node that it comes from gives nothing")
            return cls._save(video, keep_frames=keep_frames, **inputs)

    @classmethod
    def _save(
        cls,
        video,
        filename_prefix,
        format,
        quality,
        speed="medium",
        bit_depth=AUTO,
        chroma=AUTO,
        color="BT.709",
        dither=False,
        alpha=True,
        audio_codec=AUTO,
        audio_length="video",
        ping_pong=False,
        repeat=0,
        keep_unfinished=False,
        preview=False,
        keep_frames=False,
    ) -> io.NodeOutput:
        _check(format, quality, bit_depth, chroma, audio_codec, repeat)
        formats.check_in(color, COLOURS, "color can be")
        formats.check_in(audio_length, LENGTHS, "audio_length can be")
        source = source_of(video)
        file_format = _here(FORMATS[format])
        chroma = "" if chroma == AUTO else chroma
        with_alpha = alpha and source.alpha and bool(file_format.alpha) and (not chroma or chroma in file_format.alpha)
        depth_chroma = chroma or file_format.chroma(with_alpha)
        depth = (
            formats.nearest_depth(file_format, depth_chroma, source.bit_depth) if bit_depth == AUTO else int(bit_depth)
        )
        matrix, full_range = COLOURS[color]
        choice = Choice(file_format, quality, speed, depth, depth_chroma, with_alpha, matrix, full_range, dither)
        frames = source.frames
        if audio_length == "shortest" and source.sound is not None:
            frames = min(frames, max(1, math.ceil(source.sound.seconds * source.fps)))
        options = VideoOptions(
            fps=source.fps,
            choice=choice,
            audio=source.sound,
            audio_codec=None if audio_codec == AUTO else audio_codec,
            whole_audio=audio_length == "longest",
            metadata=cls._metadata(),
            repeat=repeat,
            keep_unfinished=keep_unfinished,
        )
        folder, name, number, subfolder = server.output_names(filename_prefix, source.width, source.height)
        beside = () if file_format.restores or not options.metadata else ("png",)
        extension = "" if file_format.is_folder else file_format.extension
        sink = file_format.sink(Numbered(Path(folder), name, number, extension, beside), options)
        sinks, spectators = [sink], []
        small = None
        if preview and not choice.plays:
            small = PreviewSink(Numbered(server.temp_folder(), name, number, "mp4"), options, sink.pixel_format)
            spectators = [small]
        if ping_pong:
            sinks, spectators = [PingPong(sink)], [PingPong(each_sink) for each_sink in spectators]
        kept = image_sink(source) if keep_frames else None
        try:
            report = run(source, [*sinks, kept] if kept else sinks, frames, spectators)
        except Exception as error:
            if not sink.kept or lanes.is_cancel(error):
                raise
            left = ", ".join(map(str, sink.kept))
            raise rescue.with_note(error, f"What was saved before that is kept as {left}.") from error.__cause__
        return io.NodeOutput(
            _saved_video(video, sink, file_format),
            _frames(source, kept, frames) if keep_frames else server.blocked(NOT_KEPT),
            ui=_shown(sink, small, subfolder) | {"async_frame_pipeline": [report.as_dict()]},
        )

    @classmethod
    def _frames_are_used(cls) -> bool:
        """Whether the prompt has a link from the second output."""
        link = [cls.hidden.unique_id, 1]
        return any(link in node["inputs"].values() for node in (cls.hidden.prompt or {}).values())

    @classmethod
    def _metadata(cls) -> dict:
        """What the stock saver stores, the workflow under its own key and the prompt; and the version."""
        if not server.metadata_enabled():
            return {}
        metadata = dict(cls.hidden.extra_pnginfo or {})
        if cls.hidden.prompt is not None:
            metadata["prompt"] = cls.hidden.prompt
        return signed(metadata)


def _check(format, quality, bit_depth, chroma, audio_codec, repeat) -> None:
    """Raise a ValueError that says which input cannot be so, and what it can be; None is not known yet."""
    if bit_depth is not None:
        formats.check_in(str(bit_depth), BIT_DEPTHS, "bit_depth can be")
    if repeat is not None and repeat not in range(1001):
        raise ValueError(f"repeat can be 0 to 1000, got {repeat}")
    if format is None:
        return
    if format not in list(FORMATS):
        formats.check_in(format, formats.available_formats(), "format can be")
    file_format = FORMATS[format]
    # The depths depend on the chroma.
    depth = None if chroma is None or bit_depth in (None, AUTO) else int(bit_depth)
    file_format.check(quality, None if chroma == AUTO else chroma, depth)
    if audio_codec not in (None, AUTO) and file_format.is_video and audio_codec not in file_format.audio:
        raise ValueError(f"{format} can have sound as {', '.join(file_format.audio)}; got {audio_codec}")
    if repeat is not None and repeat > 1 and file_format.is_folder:
        raise ValueError("a png sequence cannot repeat: set repeat to 0")


def _here(file_format: Format) -> Format:
    """The format, or the same kind of file from an encoder that this machine has."""
    if file_format.name in formats.available_formats():
        return file_format
    if file_format.software not in formats.available_formats():
        raise ValueError(
            f"PyAV {av.__version__} cannot write {file_format.name}: it has no {file_format.encoder.name}, "
            "or one that is too old. Choose another format."
        )
    say(
        f"no {file_format.encoder.name} on this machine, "
        f"{file_format.software} is written instead of {file_format.name}"
    )
    return FORMATS[file_format.software]


def _saved_video(video, sink: FileSink, file_format: Format):
    """What the node gives on: the file; ComfyUI has no VIDEO for a folder of pictures."""
    return video if file_format.is_folder else InputImpl.VideoFromFile(str(sink.path))


def _frames(source, kept, frames: int):
    return kept.frames_thwc if kept is not None else source.frames_thwc[:frames]


def _shown(sink: FileSink, small: PreviewSink | None, subfolder: str) -> dict:
    """What the frontend shows and clients fetch: the saved files first, then a preview.

    Of a PNG sequence the first picture stands for all, which the frontend would load at once otherwise.
    """
    path = sink.path
    if path.is_dir():
        inside = f"{subfolder}/{path.name}" if subfolder else path.name
        return {"images": [ui.SavedResult(sorted(path.iterdir())[0].name, inside, io.FolderType.output)]}
    saved = [ui.SavedResult(path.name, subfolder, io.FolderType.output)]
    if path.suffix in (".gif", ".webp"):
        # "animated" would make the frontend play a GIF as a video, which no browser can,
        # and spread a WebP over its canvas.
        return {"images": saved}
    if small is not None and small.path is not None:  # it is left out where it fails
        saved.append(ui.SavedResult(small.path.name, "", io.FolderType.temp))
    return {"images": saved, "animated": (True,)}
