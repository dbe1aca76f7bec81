"""What each lane did in one run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from .timeline import Timeline

# What takes less than this share of a run is not worth a user's while.
NOTEWORTHY_SHARE = 0.05


@dataclass(slots=True)
class Report:
    """Counts, seconds and bytes of one run; filled in as it goes, complete when `engine.run` returns.

    Attributes:
        total_frames: what the run is to deliver.
        frames, chunks: what went through the lanes.
        slots: size of the ring.
        device: "cuda" or "cpu", where the frames came from.
        already_decoded: the frames were there before the run, so there was nothing to decode.
        decoded_again: another run of the same prompt had decoded the same.
        writer, advice: the first sink's `name` and `advice`.
        span_seconds: from the start of decoding to the last decoded chunk, on the GPU's own clock
            (on the CPU: the wall clock).
        copy_seconds: GPU time of the device-to-host copies, added up. 0 on the CPU.
        write_seconds: time the sink thread spent inside the sinks, added up.
        held_frames: the most frames the first sink had taken and not put out yet: how far an encoder lags behind.
        tail_seconds: from the last decoded chunk to the last sink published.
        total_seconds: wall time of the run, finishing and publishing the sinks included.
        stalls: chunks that found no free slot. Some are harmless: the GPU may still have work queued.
        stalled_seconds: how long the GPU had nothing to do because of them.
        host_peak_bytes: largest resident size of the process seen while the lanes ran.
        device_peak_bytes: most GPU memory allocated at once, decoder and weights included. 0 where that is not known:
            on the CPU, and where the process had more allocated before the run.
        ring_bytes: host memory of all slots; their GPU halves are as large.
        timeline: the lanes over time; None unless somebody watches.
    """

    total_frames: int = 0
    frames: int = 0
    chunks: int = 0
    slots: int = 0
    device: str = "cuda"
    already_decoded: bool = False
    decoded_again: bool = False
    writer: str = "the writer"
    advice: str = ""
    span_seconds: float = 0.0
    copy_seconds: float = 0.0
    write_seconds: float = 0.0
    held_frames: int = 0
    tail_seconds: float = 0.0
    total_seconds: float = 0.0
    stalls: int = 0
    stalled_seconds: float = 0.0
    host_peak_bytes: int = 0
    device_peak_bytes: int = 0
    ring_bytes: int = 0
    timeline: Timeline | None = None

    @property
    def busy_share(self) -> float:
        """Share of the decode span in which the compute lane was not held up by the others, 0 to 1.

        Gaps between kernels inside the decoder are not seen from here; a profiler's trace shows them.
        """
        return 1.0 - self.stalled_seconds / self.span_seconds if self.span_seconds > 0 else 1.0

    def as_dict(self) -> dict:
        """All figures, `limit`, `verdict`, `text` and, where somebody watched, the `chart`; ready for JSON."""
        figures = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "timeline"
        }
        return figures | {
            "busy_share": self.busy_share,
            "limit": self.limit,
            "verdict": self.verdict(),
            "chart": self.timeline.chart() if self.timeline else None,
            "text": self.text(),
        }

    def progress(self, seconds: float) -> dict:
        """The figures of a run that has been going for `seconds`, ready for JSON; needs a `timeline`.

        "fps" and "left", the seconds to go, are for written frames, and None as long as `Pace` cannot tell.
        """
        timeline, written = self.timeline, self.frames
        assert timeline is not None, "only a run that is watched has a progress"
        copied = max(written, timeline.copied)
        fps, left = timeline.pace.see(written, self.total_frames, seconds)
        return {
            "total": self.total_frames,
            "decoded": max(copied, timeline.decoded),
            "copied": copied,
            "written": written,
            "seconds": seconds,
            "fps": fps,
            "left": left,
            "busy_share": timeline.busy_share,
            "device": self.device,
            "already_decoded": self.already_decoded,
            "chart": timeline.chart(),
        }

    @property
    def limit(self) -> str:
        """The lane that would have shortened the run most by taking no time: "decode", "copy" or "write".

        Without the lanes behind it the decoder would have had no stalls, and the run no tail; without the
        decoder the longest of those would remain.
        """
        longest = max(self.write_seconds, self.copy_seconds)
        if not self.already_decoded and self.stalled_seconds + self.tail_seconds <= self.total_seconds - longest:
            return "decode"
        return "copy" if self.copy_seconds > self.write_seconds else "write"

    def verdict(self) -> str:
        """What limited the run, in a sentence or two, from these figures and nothing else."""
        if self.already_decoded:
            return f"The frames were already decoded. Writing them took {_seconds(self.write_seconds)}."
        decoder = "the GPU" if self.device == "cuda" else "the decoder"
        noteworthy = NOTEWORTHY_SHARE * self.total_seconds
        late = self.tail_seconds >= noteworthy
        if self.limit == "decode":
            who = "The GPU" if self.device == "cuda" else "Decoding on the CPU"
            if not late:
                return f"{who} was the limit: it was busy {self.busy_share:.0%} of the time."
            return (
                f"{who} was the limit: it was busy {self.busy_share:.0%} of the time until the last frame. "
                f"{_capital(self.writer)} took {_seconds(self.tail_seconds)} more."
            )
        waits = []
        if self.stalled_seconds >= noteworthy or not late:
            waits.append(f"{decoder} waited {_seconds(self.stalled_seconds)} for it")
        if late:
            waits.append(f"it ended {_seconds(self.tail_seconds)} after {decoder}")
        if self.limit == "copy":
            return f"Copying to main memory was the limit: {' and '.join(waits)}."
        advice = f"; {self.advice} would help" if self.advice else ""
        return f"{_capital(self.writer)} was the limit: {' and '.join(waits)}{advice}."

    def text(self) -> str:
        """The report for people, one lane a line."""
        mib = 1024 * 1024
        device = f"device {self.device_peak_bytes / mib:.0f} MiB, " if self.device_peak_bytes else ""
        return "\n".join(
            (
                f"{self.frames} frames in {self.chunks} chunks through {self.slots} slots: {self.total_seconds:.2f} s",
                f"  decode  {self.span_seconds:7.2f} s  busy {self.busy_share:.1%}, "
                f"{self.stalls} stalls, {self.stalled_seconds:.2f} s lost",
                f"  copy    {self.copy_seconds:7.2f} s",
                f"  write   {self.write_seconds:7.2f} s  up to {self.held_frames} frames held, "
                f"{self.tail_seconds:.2f} s after the last was decoded",
                f"  peak memory: host {self.host_peak_bytes / mib:.0f} MiB, {device}"
                f"ring {self.ring_bytes / mib:.1f} MiB",
            )
        )


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{seconds:.2f} s"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
