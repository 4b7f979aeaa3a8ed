"""Writes the SHA-256 of each package's wheels, as the package index has them, into lists.

    python3 xtask/pin.py [--windows] LIST...

For whoever changes a version in a list: `cargo xtask` installs nothing else than these files. Of
the wheels, those count that Linux on x86_64 and aarch64 takes, with Python 3.10 to 3.14; --windows
adds those for Windows on x86_64. Comments and markers stay as they are.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

PYTHONS = ("cp310", "cp311", "cp312", "cp313", "cp314")
FORMAT = "application/vnd.pypi.simple.v1+json"
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)")


def index() -> str:
    """The index that pip asks."""
    pip = [sys.executable, "-m", "pip", "config", "get"]
    for key in ("install.index-url", "global.index-url", ":env:.index-url"):
        found = subprocess.run([*pip, key], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.strip().rstrip("/")
    return "https://pypi.org/simple"


def is_ours(wheel: str, windows: bool) -> bool:
    *_, pythons, abi, platforms = wheel.removesuffix(".whl").split("-")
    systems = [one.split("linux")[0] for one in platforms.split(".")]
    machines = ("x86_64", "aarch64")
    linux = any(one in ("many", "") for one in systems) and platforms.endswith(machines)
    if not (platforms == "any" or linux or (windows and platforms == "win_amd64")):
        return False
    for python in pythons.split("."):
        stable = abi == "abi3" and python.startswith("cp3")
        if python in ("py3", "py2") or stable or (python in PYTHONS and abi == python):
            return True
    return False


def hashes(name: str, version: str, windows: bool) -> list[str]:
    project = re.sub(r"[-_.]+", "-", name).lower()
    request = urllib.request.Request(f"{index()}/{project}/", headers={"Accept": FORMAT})
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = json.load(answer)["files"]
    found = []
    for file in files:
        parts = file["filename"].split("-")
        wheel = file["filename"].endswith(".whl") and parts[1] == version
        if wheel and not file.get("yanked") and is_ours(file["filename"], windows):
            found.append(file["hashes"]["sha256"])
    if not found:
        raise SystemExit(f"{name}=={version} has no wheel for any of these systems")
    return sorted(found)


def pinned(text: str, windows: bool) -> str:
    lines = []
    for line in text.splitlines():
        if line.strip().startswith("--hash"):
            continue
        line = line.removesuffix("\\").rstrip()
        requirement = REQUIREMENT.match(line)
        if requirement is None:
            lines.append(line)
            continue
        all_hashes = hashes(requirement[1], requirement[2], windows)
        ends = [f"    --hash=sha256:{one}" for one in all_hashes]
        lines.append(" \\\n".join([line, *ends]))
    return "\n".join(lines) + "\n"


def main() -> None:
    arguments = sys.argv[1:]
    windows = "--windows" in arguments
    for path in [Path(one) for one in arguments if one != "--windows"]:
        path.write_text(pinned(path.read_text(), windows))


main()
