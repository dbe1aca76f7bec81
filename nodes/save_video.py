"""Save Video (Streaming): any VIDEO, or images with a frame rate, into a file, through the lanes."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import av
import psutil
from comfy_api.latest import InputImpl, io, ui

from ..pipeline.ends import Ends
from ..pipeline.sinks import Sink, formats
from ..pipeline.sinks.audio import CODECS
from ..pipeline.sinks.encoders.base import QUALITIES, SPEEDS
from ..pipeline.sinks.formats import CHROMAS, FORMATS, Choice, FileSink, Format
from ..pipeline.sinks.keeping import keep
from ..pipeline.sinks.ping_pong import PingPong
from ..pipeline.sinks.preview import PreviewSink
from ..pipeline.sinks.unfinished import NAME_BYTES, NUMBER_BYTES, Numbered, fitting
from ..pipeline.sinks.video_file import VideoOptions, frames_until
from ..pipeline.sources.file import FileSource
from ..pipeline.stated import BT2020
from . import live, rescue, saved_file, saver_inputs
from .checked import checked_audio
from .comfyui import lanes, server
from .comfyui.queued import CheckedWhenQueued
from .latent_video import LatentVideo
from .log import say
from .saver_inputs import (
    AUTO,
    BIT_DEPTHS,
    BY_QUALITY,
    COLOURS,
    LENGTHS,
    NOT_KEPT,
    Refused,
    SaverInputs,
    check_connected,
    frames_are_used,
)
from .version import described, signed_prompt
from .video_source import image_dtype, image_sink, images_source, run, source_of, video_of

# Files that one of ComfyUI's own nodes cannot read. PyAV sees no animation in a WebP; stock Save Video puts neither
# ProRes nor GIF into its MP4, and of H.265 in MKV it leaves out the first pictures, which have no decoding time.
NOT_READ = ("mkv (h265)", "mov (prores)", "webp (animated)", "gif")


def quality_input(default: str) -> io.Input:
    return io.Combo.Input(
        "quality",
        options=list(QUALITIES),
        default=default,
        optional=True,
        tooltip="Higher looks better and makes larger files. Medium is what Save Video does. "
        "Lossless changes nothing that is stored; not every format has it.",
    )


def bit_depth_input() -> io.Input:
    return io.Combo.Input(
        "bit_depth",
        options=list(BIT_DEPTHS),
        default=AUTO,
        optional=True,
        advanced=True,
        tooltip="Bits per colour. Auto: what the video has, or the nearest the format can store.",
    )


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
                # Optional: all that a prompt may leave out, also what was added since it was made.
                io.Video.Input("video", optional=True, tooltip="The video to save. In its place, images may be."),
                io.String.Input(
                    "filename_prefix",
                    default="video/ComfyUI",
                    tooltip="Where to save, inside the output folder. May hold %date:yyyy-MM-dd% and values of other "
                    "nodes such as %Empty Latent Image.width%.",
                ),
                io.Combo.Input(
                    "format",
                    options=saver_inputs.Offered(formats.available_formats()),
                    default="mp4 (h264)",
                    optional=True,
                    tooltip="Container and codec of the file.",
                ),
                quality_input("high"),
                # Below, what few need.
                io.Combo.Input(
                    "speed",
                    options=list(SPEEDS),
                    default="medium",
                    optional=True,
                    advanced=True,
                    tooltip="How much time the encoder takes. Slower makes smaller files of the same look.",
                ),
                bit_depth_input(),
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
                    max=saver_inputs.MOST_REPEATS,
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
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="For formats that browsers do not play: also make a small MP4 to show here. "
                    "It is no output, and gone when ComfyUI starts again.",
                ),
                io.Boolean.Input(
                    "keep_frames",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Also give out the frames as images, from the same decode. All of them are then in memory.",
                ),
                # After all others: saved workflows hold widgets by position.
                io.Image.Input("images", optional=True, tooltip="Frames to save, in place of a video."),
                io.Float.Input(
                    "fps",
                    default=24.0,
                    min=0.01,
                    max=1000.0,
                    step=0.001,
                    optional=True,
                    tooltip="Frames per second of the images. A video has its own.",
                ),
                io.Audio.Input("audio", optional=True, tooltip="Sound for images, or in place of the video's own."),
                io.Float.Input(
                    "crf",
                    default=BY_QUALITY,
                    min=BY_QUALITY,
                    max=saver_inputs.LARGEST_CRF,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip="In place of quality, on the encoder's own scale: lower looks better and makes larger "
                    "files. -1: what quality says.",
                ),
                io.Boolean.Input(
                    "save_output",
                    default=True,
                    optional=True,
                    tooltip="Off: the file goes into the temp folder, which ComfyUI empties when it starts.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
            outputs=[
                io.Video.Output(
                    tooltip="The saved file; of ProRes, GIF, WebP, H.265 in MKV and pictures, which other nodes cannot "
                    "read, the video that came in."
                ),
                io.Image.Output(display_name="frames", tooltip="The frames, if keep_frames is on."),
                io.String.Output(display_name="path", tooltip="Where the file, or the folder of pictures, is."),
                io.Image.Output(
                    display_name="last_frame", tooltip="The last frame, as decoded: to go on from, image to video."
                ),
                io.Image.Output(display_name="first_frame", tooltip="The first frame, as decoded."),
            ],
        )

    # Refuses when the prompt is queued what cannot be saved; what another node will give is looked at in `execute`.
    validate_inputs = CheckedWhenQueued(
        "SaveVideoStreaming", saver_inputs.fault_when_queued, saver_inputs.fault_alone, "filename_prefix"
    )

    @classmethod
    def execute(cls, video=None, images=None, fps=24.0, audio=None, **given) -> io.NodeOutput:
        with video.rescuing() if isinstance(video, LatentVideo) else contextlib.nullcontext():
            try:
                inputs = SaverInputs.of(given)
                check_connected(video is not None, images is not None)
            except Refused as refused:
                # ComfyUI shows the type as well, one of ours with the path of its module.
                raise ValueError(str(refused)) from None
            if video is None:
                source = images_source(images, fps)
                video = video_of(images, source.fps, audio)
            else:
                source = source_of(video)
            if audio is not None:
                source.sound = checked_audio(audio)
                source.stated = replace(source.stated, has_sound=False, sound_tags={})  # which were the other's
            return save(video, source, inputs, cls.hidden)


def save(video, source, inputs: SaverInputs, hidden, notes: Sequence[str] = ()) -> io.NodeOutput:
    """Save a VIDEO, and give out what the node does.

    Args:
        source: what it is read from, see `source_of`.
        hidden: the hidden inputs of the node that runs.
        notes: for the report, what else there is to say of the decode.
    """
    choice, converted = _choice(inputs, source)
    file_format = choice.format
    at_most = None
    if inputs.audio_length == "shortest" and source.sound is not None:
        at_most = frames_until(source.sound.seconds, source.fps)
    frames = min(source.frames, at_most or source.frames)
    options = VideoOptions(
        fps=source.fps,
        choice=choice,
        audio=source.sound,
        audio_codec=None if inputs.audio_codec == AUTO else inputs.audio_codec,
        whole_audio=inputs.audio_length == "longest",
        metadata=_metadata(hidden),
        repeat=inputs.repeat,
        frames_at_most=at_most,
        keep_unfinished=inputs.keep_unfinished,
    )
    root = server.output_folder() if inputs.save_output else server.temp_folder()
    folder, name, number, subfolder = server.output_names(inputs.filename_prefix, source.width, source.height, root)
    beside = () if file_format.restores or not options.metadata else ("png",)
    extension = "" if file_format.is_folder else file_format.extension
    sink = file_format.sink(Numbered(Path(folder), name, number, extension, beside), options)
    sinks, spectators = [sink], []
    small = None
    if inputs.preview and not choice.plays:
        # Of another name than the file, for whom the browser offers to save it.
        copy_name = fitting("", name, f"_{number:05}_preview", NAME_BYTES - NUMBER_BYTES)
        target = Numbered(server.temp_folder(), copy_name, 1, "mp4")
        small = PreviewSink(target, options, sink.pixel_format, inputs.ping_pong)
        spectators = [small]
    if inputs.ping_pong:
        sinks = [PingPong(sink, at_most)]
    # After all the work it is too late to refuse: what was not known when the prompt was queued is made up for.
    keep_frames = inputs.keep_frames or frames_are_used(hidden.unique_id, hidden.prompt or {})
    kept = image_sink(source) if keep_frames else None
    in_memory = {"keep_frames": [kept] if kept else [], "ping_pong": [*sinks, *spectators] * inputs.ping_pong}
    _check_memory(source, frames, in_memory)
    ends = Ends(image_dtype(source))
    try:
        report = run(source, [*sinks, kept] if kept else sinks, frames, spectators, ends)
    except Exception as error:
        if not sink.kept or lanes.is_cancel(error):
            raise
        left = ", ".join(map(str, sink.kept))
        raise rescue.with_note(error, f"What was saved before that is kept as {left}.") from error.__cause__
    report.decoded.notes += [*notes, *converted]
    first_frame, last_frame = ends.images()
    place = "output" if inputs.save_output else "temp"
    saved = saved_file.facts(sink, options, source.width, source.height, subfolder, place)
    say(saved_file.line(saved))
    return io.NodeOutput(
        _saved_video(video, sink, file_format),
        _frames(source, kept, frames) if keep_frames else server.blocked(NOT_KEPT),
        saved["path"],
        last_frame,
        first_frame,
        ui=_outputs(saved) | live.output(report, files=[saved], preview=_view_of(small)),
    )


def _metadata(hidden) -> dict:
    """What the stock saver stores, the workflow under its own key and the prompt; and the version."""
    if not server.metadata_enabled():
        return {}
    return signed_prompt(hidden.prompt, hidden.extra_pnginfo)


def _choice(inputs: SaverInputs, source) -> tuple[Choice, list[str]]:
    """What is left open, decided by what the video has and the format can store; what it cannot, `source` converts.

    Also what there is to say of that, for the report; the log has it by then.
    """
    file_format = _here(FORMATS[inputs.format])
    chroma = "" if inputs.chroma == AUTO else inputs.chroma
    can_be_clear = bool(file_format.alpha) and (not chroma or chroma in file_format.alpha)
    alpha = inputs.alpha and source.alpha and can_be_clear
    chroma = chroma or file_format.chroma(alpha)
    if inputs.bit_depth == AUTO:
        depth = formats.nearest_depth(file_format, chroma, source.bit_depth)
    else:
        depth = int(inputs.bit_depth)
    matrix, full_range = COLOURS[inputs.color]
    stated, told = keep(source, file_format, depth, colours=inputs.color == "BT.709")
    converted = []
    if told and isinstance(source, FileSource):
        converted = [f"of the loaded video: {'; '.join(told)}"]
        say(converted[0])
    if stated != source.stated:
        source.conform(stated)
    if stated.primaries == BT2020:
        matrix = "bt2020"
    choice = Choice(
        file_format,
        inputs.quality,
        inputs.speed,
        depth,
        chroma,
        alpha,
        matrix,
        full_range,
        inputs.dither,
        None if inputs.crf == BY_QUALITY else inputs.crf,
        stated,
    )
    return choice, converted


def _check_memory(source, frames: int, in_memory: Mapping[str, Sequence[Sink]]) -> None:
    """Refuse before the work what main memory can never hold, as of a long file.

    Args:
        in_memory: what is on, and the sinks that hold all their frames for it.
    Raises:
        ValueError: there is not so much memory in this machine.
    """
    needed, on = 0, [name for name, sinks in in_memory.items() if sinks]
    for sink in itertools.chain(*in_memory.values()):
        pixels = sink.pixel_format
        needed += frames * math.prod(pixels.frame_shape(source.height, source.width)) * pixels.dtype.itemsize
    total = psutil.virtual_memory().total + psutil.swap_memory().total
    if needed > total:
        raise ValueError(
            f"{' and '.join(on)} would hold {frames} frames of {source.width}x{source.height} in memory, "
            f"{needed / 1e9:.0f} GB, and this machine has {total / 1e9:.0f} GB. Turn it off, or save a part."
        )


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
    """What the node gives on: the file, or what came in where others cannot read that, as a folder of pictures."""
    if file_format.is_folder or file_format.name in NOT_READ:
        return video
    return InputImpl.VideoFromFile(str(sink.path))


def _frames(source, kept, frames: int):
    return kept.frames_thwc if kept is not None else source.frames_thwc[:frames]


def _outputs(saved: dict) -> dict:
    """What counts as an output of the prompt: the file alone, and of a sequence the first picture for all."""
    images = [ui.SavedResult(saved["filename"], saved["subfolder"], io.FolderType(saved["type"]))]
    # "animated" would make the frontend play a GIF as a video, which no browser can.
    still = saved["filename"].endswith((".gif", ".webp", ".png", ".exr"))
    return {"images": images} if still else {"images": images, "animated": (True,)}


def _view_of(small: PreviewSink | None) -> dict | None:
    """Where the panel finds the small copy; None where there is none, or where it failed."""
    if small is None or small.path is None:
        return None
    return {"filename": small.path.name, "subfolder": "", "type": "temp"}
