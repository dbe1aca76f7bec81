"""What each lane did in one run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(slots=True)
class Report:
    """Counts, seconds and bytes of one run; filled in as it goes, complete when `engine.run` returns.

    Attributes:
        frames, chunks: what went through the lanes.
        slots: size of the ring.
        span_seconds: from the start of decoding to the last decoded chunk, on the GPU's own clock
            (on the CPU: the wall clock).
        copy_seconds: GPU time of the device-to-host copies, added up. 0 on the CPU.
        write_seconds: time the sink thread spent inside the sinks, added up.
        total_seconds: wall time of the run, flushing and closing the sinks included.
        stalls: chunks that found no free slot. Some are harmless: the GPU may still have work queued.
        stalled_seconds: how long the GPU had nothing to do because of them.
        host_peak_bytes: largest resident size of the process seen while the lanes ran.
        device_peak_bytes: most GPU memory allocated at once, decoder and weights included. 0 on the CPU.
        ring_bytes: host memory of all slots; their GPU halves are as large.
    """

    frames: int = 0
    chunks: int = 0
    slots: int = 0
    span_seconds: float = 0.0
    copy_seconds: float = 0.0
    write_seconds: float = 0.0
    total_seconds: float = 0.0
    stalls: int = 0
    stalled_seconds: float = 0.0
    host_peak_bytes: int = 0
    device_peak_bytes: int = 0
    ring_bytes: int = 0

    @property
    def busy_share(self) -> float:
        """Share of the decode span in which the compute lane was not held up by the others, 0 to 1.

        Gaps between kernels inside the decoder are not seen from here; a profiler's trace shows them.
        """
        return 1.0 - self.stalled_seconds / self.span_seconds if self.span_seconds > 0 else 1.0

    def as_dict(self) -> dict:
        """All figures and `text`, ready for JSON."""
        return dataclasses.asdict(self) | {"busy_share": self.busy_share, "text": self.text()}

    def text(self) -> str:
        """The report for people, one lane a line."""
        mib = 1024 * 1024
        return "\n".join(
            (
                f"{self.frames} frames in {self.chunks} chunks through {self.slots} slots: {self.total_seconds:.2f} s",
                f"  decode  {self.span_seconds:7.2f} s  busy {self.busy_share:.1%}, "
                f"{self.stalls} stalls, {self.stalled_seconds:.2f} s lost",
                f"  copy    {self.copy_seconds:7.2f} s",
                f"  write   {self.write_seconds:7.2f} s",
                f"  peak memory: host {self.host_peak_bytes / mib:.0f} MiB, "
                f"device {self.device_peak_bytes / mib:.0f} MiB, ring {self.ring_bytes / mib:.1f} MiB",
            )
        )
