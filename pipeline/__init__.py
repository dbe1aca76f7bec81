"""The engine: chunks of decoded video on their way from the GPU into sinks.

Knows torch, numpy and PyAV; never imports ComfyUI. Start reading at `engine.py`.
"""
