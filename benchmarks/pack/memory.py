"""Memory and the length of a video."""

import gc
from pathlib import Path

import comfy.model_management as model_management

from .case import Case
from .measured import measured
from .turns import in_turns

# Peaks hardly differ, and the long video takes stock half a minute.
TURNS = 2


class BenchMemory:
    """Peak memory of saving a short and a long video; host peak is the process's own high-water mark."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "version": (["2.1", "2.2"],),
                "width": ("INT", {"default": 832, "max": 8192}),
                "height": ("INT", {"default": 480, "max": 8192}),
                "frames": ("STRING", {"default": "81,801"}),
            }
        }

    RETURN_TYPES = ()
    FUNCTION = "measure"
    OUTPUT_NODE = True
    CATEGORY = "benchmarks"

    def measure(self, version, width, height, frames):
        rows = []
        vae = None
        for count in map(int, frames.split(",")):
            case = Case(version, width, height, count, vae=vae)
            vae = case.vae
            ways = {"exact": case.our_file, "fast": lambda case=case: case.our_file("fast"), "stock": case.stock_file}
            for way in ways.values() if not rows else ():
                way()  # warms up
            taken = in_turns([lambda name=name, way=way: {name: memory_row(way)} for name, way in ways.items()], TURNS)
            rows += [{"frames": count, "way": name} | row for name, row in taken.items()]
            case.close()
        return {"ui": {"rows": rows}}


def memory_row(way):
    gc.collect()
    model_management.soft_empty_cache()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    row = measured(way)[0]
    [mark] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    host_peak_bytes = int(mark.split()[1]) * 1024
    return {"seconds": row["seconds"], "host_peak_bytes": host_peak_bytes, "device_peak_bytes": row["peak_bytes"]}
