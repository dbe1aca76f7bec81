"""A card of which little is free."""

import contextlib
import subprocess
import sys

from ..conftest import ROOT


@contextlib.contextmanager
def taken(but_gb: float):
    """Another process holds all of the GPU's memory that is free, but so much."""
    with subprocess.Popen(
        [sys.executable, ROOT / "benchmarks" / "hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        holder.stdin.write(f"{but_gb}\n")
        holder.stdin.flush()
        assert int(holder.stdout.readline()) > 0
        try:
            yield
        finally:
            holder.stdin.close()
