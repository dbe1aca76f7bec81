"""Save Video (Streaming): any VIDEO into a file, through the lanes."""

from __future__ import annotations

import contextlib
import os

from comfy_api.latest import InputImpl, io, ui

from ..pipeline.report import Report
from ..pipeline.sinks.video_file import VideoFileSink, VideoOptions
from . import decoding, host
from .latent_video import LatentVideo, checked_audio, checked_fps

FORMATS = ["mp4 (h264)"]
# x264's constant rate factor for each choice. 23 is its default and what the stock Save Video uses.
CRF = {"very high": 14, "high": 18, "medium": 23, "low": 28}


class SaveVideoStreaming(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SaveVideoStreaming",
            display_name="Save Video (Streaming)",
            category="video",
            description=(
                "Saves a video to the output folder. A video from Async VAE Decode to Video is encoded while it is "
                "decoded. Colours are BT.709, converted and tagged as such."
            ),
            search_aliases=["save video", "export video", "video combine", "mp4", "h264", "async"],
            inputs=[
                io.Video.Input("video", tooltip="The video to save."),
                io.String.Input(
                    "filename_prefix", default="video/ComfyUI",
                    tooltip="Where to save, inside the output folder. May hold %date:yyyy-MM-dd% and values of other "
                    "nodes such as %Empty Latent Image.width%.",
                ),
                io.Combo.Input("format", options=FORMATS, default=FORMATS[0], tooltip="Container and codec of the file."),
                io.Combo.Input(
                    "quality", options=list(CRF), default="high",
                    tooltip="Higher looks better and makes larger files. Medium is what Save Video does.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
            outputs=[io.Video.Output(tooltip="The saved file.")],
        )

    @classmethod
    def execute(cls, video, filename_prefix, format, quality) -> io.NodeOutput:
        with video.rescuing() if isinstance(video, LatentVideo) else contextlib.nullcontext():
            width, height = video.get_dimensions()
            folder, name, subfolder = host.output_path(filename_prefix, "mp4", width, height)
            path = os.path.join(folder, name)
            report = _save(video, path, CRF[quality], cls._metadata())
        preview = ui.PreviewVideo([ui.SavedResult(name, subfolder, io.FolderType.output)])
        return io.NodeOutput(
            InputImpl.VideoFromFile(path), ui=preview.as_dict() | {"async_frame_pipeline": [report.as_dict()]}
        )

    @classmethod
    def _metadata(cls) -> dict:
        """What the stock saver stores: the workflow under its own key, and the prompt."""
        if not host.metadata_enabled():
            return {}
        metadata = dict(cls.hidden.extra_pnginfo or {})
        if cls.hidden.prompt is not None:
            metadata["prompt"] = cls.hidden.prompt
        return metadata


def _save(video, path: str, crf: int, metadata: dict) -> Report:
    if isinstance(video, LatentVideo):
        return video.encode(path, metadata, crf=crf)
    components = video.get_components()
    options = VideoOptions(
        fps=checked_fps(float(components.frame_rate)),
        # Older ComfyUIs' videos do not tell.
        bit_depth=10 if getattr(video, "get_bit_depth", lambda: 8)() >= 10 else 8,
        crf=crf,
        audio=checked_audio(components.audio),
        metadata=metadata,
    )
    return decoding.write_frames(components.images, [VideoFileSink(path, options)])
