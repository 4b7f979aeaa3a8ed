"""The example of the README runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs() -> None:
    example = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert example is not None
    ran = subprocess.run([sys.executable, "-B", "-c", example[1]], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "y[0, 0] = 4.25" in ran.stdout
    assert "dx[0, 0] = 4.5" in ran.stdout
