"""The engine: chunks of decoded video on their way from the GPU into sinks.

Knows torch, numpy and PyAV; never imports ComfyUI. Start reading at `engine.py`.
"""

# Of the whole pack. pyproject.toml and CHANGELOG.md name it too, and a test holds them together.
VERSION = "0.2.0"
