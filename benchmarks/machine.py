"""What figures were taken of and on: the commit and the card. A card that others use too gives none."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

# A card that nobody uses is at 0 %; one sample may catch what the driver does.
IDLE_PERCENT = 5
# nvidia-smi's utilisation is of the last second or less: what it says this soon after a run is of the run.
SETTLE_SECONDS = 1.5
SAMPLES, SAMPLE_SECONDS = 3, 0.3


class SharedCard(SystemExit):
    """Others use the card: ends a benchmark, with the reason and a status that is not 0."""


def about(checkout: Path) -> dict:
    """What every file of figures says. The card is named only if `refuse_shared` found it alone, or there is none."""
    cores = len(os.sched_getaffinity(0))
    return {"commit": commit(checkout), "date": time.strftime("%Y-%m-%d"), "cores": cores, **card()}


def commit(checkout: Path) -> str:
    """`git describe` of a checkout; in a copy without .git what AFP_COMMIT says.

    Raises:
        SystemExit: neither is there.
    """
    if (checkout / ".git").exists():
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if known := os.environ.get("AFP_COMMIT"):
        return known
    raise SystemExit(
        f'{checkout} has no .git: say which commit it is, by AFP_COMMIT="$(git describe --always --dirty)"'
    )


def card() -> dict:
    """{"card", "driver", "other_processes"}; nothing where there is no NVIDIA card."""
    if not shutil.which("nvidia-smi"):
        return {}
    name, driver = _query("--query-gpu=name,driver_version")[0].split(", ")
    return {"card": name, "driver": driver, "other_processes": 0}


def refuse_shared(ours: int = 0) -> None:
    """Nothing if the card is ours alone, or there is none.

    Args:
        ours: processes of the benchmark itself that may be on the card. With none, it has to be idle too: in a
            container others' processes are not listed.
    Raises:
        SharedCard: others use it.
    """
    if not shutil.which("nvidia-smi"):
        return
    processes = _query("--query-compute-apps=pid,process_name")
    if len(processes) > ours:
        listed = "; ".join(processes)
        raise SharedCard(f"The card is shared, these figures are worth nothing. On it, {ours} of them ours: {listed}")
    if ours:
        return
    time.sleep(SETTLE_SECONDS)
    for _ in range(SAMPLES):
        busy = int(_query("--query-gpu=utilization.gpu")[0].removesuffix(" %"))
        if busy > IDLE_PERCENT:
            raise SharedCard(f"The card is shared, these figures are worth nothing: it is busy, {busy} %, without us.")
        time.sleep(SAMPLE_SECONDS)


def _query(what: str) -> list[str]:
    """Lines of nvidia-smi about the card that torch calls cuda:0."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    command = ["nvidia-smi", f"--id={first}", what, "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()
