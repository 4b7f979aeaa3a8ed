"""PyTorch is large: what needs it is collected only where LORA_KERNELS_TEST_TORCH is 1."""

from __future__ import annotations

import os

collect_ignore_glob: list[str] = []

if os.environ.get("LORA_KERNELS_TEST_TORCH") == "1":
    import emulated

    emulated.install()
else:
    collect_ignore_glob += ["test_*.py"]
