"""What the README shows runs, and what it says of tests is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
README = (TESTS.parent / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_runs() -> None:
    (example,) = [example for example in EXAMPLES if "copy_from" in example]
    ran = subprocess.run([sys.executable, "-B", "-c", example], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "y[0, 0] = 4.25" in ran.stdout
    assert "dx[0, 0] = 4.5" in ran.stdout


def test_examples_are_python() -> None:
    assert len(EXAMPLES) >= 3
    for example in EXAMPLES:
        compile(example, "README.md", "exec")


def test_every_row_of_the_support_table_names_a_test() -> None:
    table = README.split("## What works", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 30
    for row in rows:
        named = re.search(r"\| `([\w/]+\.py)::(test_\w+)` \|$", row)
        assert named is not None, row
        file, test = TESTS / named[1], named[2]
        assert file.is_file(), row
        assert re.search(rf"^def {test}\(", file.read_text(), re.MULTILINE), row


def test_no_link_leads_out_of_the_package() -> None:
    links = re.findall(r"\]\(([^)]*)\)", README)
    assert all(link.startswith(("https://", "#")) for link in links), links
