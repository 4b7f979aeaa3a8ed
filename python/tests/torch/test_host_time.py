"""The bench of the host's time runs, and a layer costs the host less than PEFT's operations do.

How much less is for the bench itself to say, on a machine that does nothing else.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "benches" / "host_time.py"


def test_a_call_costs_the_host_less_than_its_operations() -> None:
    command = [sys.executable, "-B", str(BENCH), "--rounds", "100"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    shares = re.search(r"forward ([\d.]+), both ([\d.]+)", ran.stdout)
    assert shares is not None and all(float(share) < 0.95 for share in shares.groups()), ran.stdout
