"""What each lane did in one run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from .text import Text, parts, seconds
from .timeline import Timeline

# What takes less than this share of a run is not worth a user's while.
NOTEWORTHY_SHARE = 0.05


@dataclass(slots=True)
class Decoded:
    """What is to be said of a decode besides what the lanes saw of it.

    Attributes:
        decoder: the way it was decoded, such as "fast" or "stock"; "" where nothing was.
        reason: why that way and no better one; "" where there is none to give.
        why_not_fast: why not by the fast decoder; "" where it was.
        notes: what else a user should know, such as that memory ran out and what was done then.
        how: what was done so that it fits into memory, and what that cost.
        seconds: how long it took before the run, where the lanes only took what was decoded already.
    """

    decoder: str = ""
    reason: str = ""
    why_not_fast: str = ""
    notes: list[str] = field(default_factory=list)
    how: list[Text] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True)
class Report:
    """Counts, seconds and bytes of one run; filled in as it goes, complete when `engine.run` returns.

    Attributes:
        total_frames: what the run is to deliver.
        frames, chunks: what went through the lanes.
        slots: size of the ring.
        width, height: of the frames.
        device: "cuda" or "cpu", where the frames came from.
        already_decoded: the frames were there before the run, so the lanes had nothing to decode.
        decoded_again: another run of the same prompt had decoded the same.
        decoded: how they were decoded, by the run or right before it.
        writer, advice: the first sink's `name` and `advice`.
        span_seconds: from the start of decoding to the last decoded chunk, on the GPU's own clock
            (on the CPU: the wall clock).
        copy_seconds: GPU time of the device-to-host copies, added up. 0 on the CPU.
        write_seconds: time the sink thread spent inside the sinks, added up.
        held_frames: the most frames the first sink had taken and not put out yet: how far an encoder lags behind.
        tail_seconds: from the last decoded chunk to the last sink published.
        total_seconds: wall time of decoding and of the run, finishing and publishing the sinks included.
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
    width: int = 0
    height: int = 0
    device: str = "cuda"
    already_decoded: bool = False
    decoded_again: bool = False
    decoded: Decoded = field(default_factory=Decoded)
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
        """All figures, `limit`, `verdict`, `text` and, where somebody watched, the `chart`; ready for JSON.

        "texts" holds what the browser shows, to be said in the user's language: see `texts`.
        """
        figures = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if each.name not in ("timeline", "decoded")
        }
        return figures | {
            "decoder": self.decoded.decoder,
            "why_not_fast": self.decoded.why_not_fast,
            "notes": [*map(str, self.decoded.notes)],
            "decode_seconds": self.decode_seconds,
            "busy_share": self.busy_share,
            "limit": self.limit,
            "verdict": " ".join(self.verdict()),
            "chart": self.timeline.chart() if self.timeline else None,
            "text": self.text(),
            "texts": self.texts() | {"verdict": [*map(parts, self.verdict())]},
        }

    @property
    def decode_seconds(self) -> float:
        """What decoding took: in the lanes, or before them. 0 where the frames came from elsewhere."""
        return self.decoded.seconds if self.already_decoded else self.span_seconds

    def texts(self) -> dict:
        """{"reason": of the decoder, or None, "notes": [...]} as `text.parts`."""
        decoded = self.decoded
        return {"reason": parts(decoded.reason) if decoded.reason else None, "notes": [*map(parts, decoded.notes)]}

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
            "decoder": self.decoded.decoder,
            "texts": self.texts(),
            "chart": timeline.chart(),
        }

    @property
    def limit(self) -> str:
        """The lane that would have shortened the run most by taking no time: "decode", "copy" or "write".

        Without the lanes behind it the decoder would have had no stalls, and the run no tail; without the
        decoder the longest of those would remain.
        """
        longest = max(self.write_seconds, self.copy_seconds)
        if self.already_decoded:
            if self.decoded.seconds > longest:
                return "decode"
        elif self.stalled_seconds + self.tail_seconds <= self.total_seconds - longest:
            return "decode"
        return "copy" if self.copy_seconds > self.write_seconds else "write"

    def verdict(self) -> list[Text]:
        """What limited the run, in a few sentences, from these figures and nothing else."""
        return [*self._limits(), *self.decoded.how]

    def _limits(self) -> list[Text]:
        if self.already_decoded:
            return self._verdict_without_overlap()
        on_gpu = self.device == "cuda"
        noteworthy = NOTEWORTHY_SHARE * self.total_seconds
        late = self.tail_seconds >= noteworthy
        after = Text("The last frame was written %seconds% s after it was decoded.", seconds=seconds(self.tail_seconds))
        if self.limit == "decode":
            who = "The GPU" if on_gpu else "Decoding on the CPU"
            busy = Text(f"{who} was the limit: it was busy %share% of the time.", share=f"{self.busy_share:.0%}")
            return [busy, after] if late else [busy]
        who = "Copying to main memory" if self.limit == "copy" else _capital(self.writer)
        said = [Text(f"{who} was the limit.")]
        if self.stalled_seconds >= noteworthy or not late:
            waited = "The GPU waited %seconds% s for it." if on_gpu else "The decoder waited %seconds% s for it."
            said.append(Text(waited, seconds=seconds(self.stalled_seconds)))
        if late:
            said.append(after)
        if self.limit == "write" and self.advice:
            said.append(Text(f"{_capital(self.advice)} would help."))
        return said

    def _verdict_without_overlap(self) -> list[Text]:
        if not self.decoded.decoder:
            wrote = seconds(self.write_seconds)
            return [Text("The frames were already decoded. Writing them took %seconds% s.", seconds=wrote)]
        if not self.frames:  # an IMAGE, which is handed on as it is
            return [Text("Decoding took %seconds% s, and nothing overlapped.", seconds=seconds(self.decoded.seconds))]
        return [
            Text(
                "Nothing overlapped: decoding took %decoding% s, and writing %writing% s after that.",
                decoding=seconds(self.decoded.seconds),
                writing=seconds(self.total_seconds - self.decoded.seconds),
            )
        ]

    def text(self) -> str:
        """The report for people, one lane a line."""
        mib = 1024 * 1024
        if self.already_decoded and self.decoded.decoder and not self.frames:
            return f"{self.total_frames} frames: {self.total_seconds:.2f} s"
        device = f"device {self.device_peak_bytes / mib:.0f} MiB, " if self.device_peak_bytes else ""
        before = f"decoded in {self.decoded.seconds:.2f} s, " if self.decoded.seconds else ""
        return "\n".join(
            (
                f"{before}{self.frames} frames in {self.chunks} chunks through {self.slots} slots: "
                f"{self.total_seconds:.2f} s",
                f"  decode  {self.span_seconds:7.2f} s  busy {self.busy_share:.1%}, "
                f"{self.stalls} stalls, {self.stalled_seconds:.2f} s lost",
                f"  copy    {self.copy_seconds:7.2f} s",
                f"  write   {self.write_seconds:7.2f} s  up to {self.held_frames} frames held, "
                f"{self.tail_seconds:.2f} s after the last was decoded",
                f"  peak memory: host {self.host_peak_bytes / mib:.0f} MiB, {device}"
                f"ring {self.ring_bytes / mib:.1f} MiB",
                *(f"  {said}" for said in self.decoded.how),
            )
        )


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
