"""How latents become chunks of frames. A decoder calls `submit(frames_cthw)` for each chunk in order."""
