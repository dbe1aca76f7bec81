"""Nodes that measure this pack inside a real server; loaded by benchmarks/run, saving, encoders, little_memory and
families.

Real Wan architectures with random weights. Noise compresses like nothing a user saves, so the decoder's
output is replaced, on the GPU and at the last layer, by frames of a natural clip: the decoder does all
of its work and the encoder sees real pictures.
"""

from .decode_save import BenchDecodeSave
from .families import BenchFamily
from .little_memory import BenchLittleMemory, BenchRoom
from .memory import BenchMemory
from .prompts import BenchDecode, BenchMade, BenchModel, BenchUse, BenchVAE
from .saving import BenchClip, BenchPeer, BenchPSNR

NODE_CLASS_MAPPINGS = {
    "BenchDecodeSave": BenchDecodeSave,
    "BenchMemory": BenchMemory,
    "BenchPSNR": BenchPSNR,
    "BenchClip": BenchClip,
    "BenchPeer": BenchPeer,
    "BenchFamily": BenchFamily,
    "BenchRoom": BenchRoom,
    "BenchLittleMemory": BenchLittleMemory,
    "BenchModel": BenchModel,
    "BenchMade": BenchMade,
    "BenchVAE": BenchVAE,
    "BenchUse": BenchUse,
    "BenchDecode": BenchDecode,
}
