"""A Wan decoder of our own over the same weights, built for speed.

`weights.py` reads a state dict into layers, `network.py` decodes one latent frame at a time with
carried state, `kernels.py` holds the fused steps, each beside its plain-torch reference. `cpu.py` is the decoder on a
CPU: the same network, laid out for caches.
"""
