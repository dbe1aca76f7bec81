"""Decode elsewhere: latents go into a queue, workers on other GPUs or machines decode and encode them.

Uses `pipeline`, never `nodes`, and nothing of ComfyUI. Optional: nothing here is imported, started or listening unless
somebody sets up a farm. Start reading at `worker.py`; what travels is in `messages.py`.
"""
