"""Sets of ComfyUI's own switches that servers under test are started with. Each start costs 14 s of CPU: those that do
not touch each other share one. Those about GPU memory cannot be given to a server on the CPU: tests/cuda/test_flags.py
has them.
"""

BFLOAT16 = ["--bf16-vae", "--fp16-intermediates", "--disable-smart-memory", "--disable-metadata"]
FLOAT16 = ["--fp16-vae", "--cpu-vae", "--cache-none", "--disable-pinned-memory"]
FLOAT32 = ["--fp32-vae"]
