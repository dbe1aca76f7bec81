"""Test-only ComfyUI nodes, loaded by the servers under test as a second custom node pack.

Owns what a test can only do or see inside the server: VAEs and latents to decode, faults, comparisons.
Never imports the pack under test; faults.py finds its lanes among the loaded modules.
"""

from . import changes, fast, faults, inputs, probes, vaes

NODE_CLASS_MAPPINGS = {
    "AFPTestVAE": vaes.TestVAE,
    "AFPTestChangeVAE": changes.Change,
    "AFPTestFastDecoder": fast.FastDecoder,
    "AFPTestLatent": inputs.Latent,
    "AFPTestCropLatent": inputs.CropLatent,
    "AFPTestAudio": inputs.Audio,
    "AFPTestLazyAudio": inputs.LazyAudio,
    "AFPTestAny": inputs.Any,
    "AFPTestBadLatent": inputs.BadLatent,
    "AFPTestBadVideo": inputs.BadVideo,
    "AFPTestPatches": inputs.Patches,
    "AFPTestCompareImages": probes.CompareImages,
    "AFPTestCompareAudio": probes.CompareAudio,
    "AFPTestDumpImages": probes.DumpImages,
    "AFPTestDumpAudio": probes.DumpAudio,
    "AFPTestFault": faults.Fault,
    "AFPTestBlockRescue": faults.BlockRescue,
    "AFPTestState": probes.State,
}
