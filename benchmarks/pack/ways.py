"""The ways to decode a LATENT into an IMAGE that are compared: the stock node, this pack's, and a peer's."""

import contextlib
import functools

import nodes

from .measured import decoding, measured
from .peers import kj_vae
from .wan import random_samples, random_vae


@functools.cache
def vae_of(version):
    """One for all prompts, since a real one is loaded once."""
    return random_vae(version)


class Ways:
    """One latent, and each way to decode it.

    Args:
        kj: folder of ComfyUI-KJNodes, for the way "kj".
    """

    def __init__(self, version, width, height, frames, kj=""):
        self._version, self._kj = version, kj
        self._samples = random_samples(version, width, height, frames)

    def decode(self, way):
        """One decode.

        Returns:
            {"seconds", "peak_bytes", "decoder", "reason", "how", "notes"} and the frames, (T, H, W, 3).
        """
        if way in ("stock", "kj"):
            vae = vae_of(self._version) if way == "stock" else kj_vae(self._version, self._kj)
            with tiles_of(vae) as tiles:
                figures, (frames_thwc,) = measured(lambda: nodes.VAEDecode().decode(vae, self._samples))
            return figures | {"decoder": "tiled" if tiles else way, "reason": "", "how": "", "notes": []}, frames_thwc
        vae = vae_of(self._version)
        figures, (frames_thwc, report) = measured(lambda: decoding().decode_image_with_report(vae, self._samples, way))
        decoded = report.decoded
        said = {
            "decoder": decoded.decoder,
            "reason": str(decoded.reason),
            "how": str(getattr(decoded, "how", "")),
            "notes": [*map(str, decoded.notes)],
        }
        return figures | said, frames_thwc


@contextlib.contextmanager
def tiles_of(vae):
    """A list that gets an entry when `VAE.decode` falls back to tiles, which otherwise only the log says."""
    tiles, decode = [], vae.decode_tiled_3d
    vae.decode_tiled_3d = lambda *args, **kwargs: tiles.append(1) or decode(*args, **kwargs)
    try:
        yield tiles
    finally:
        del vae.decode_tiled_3d
