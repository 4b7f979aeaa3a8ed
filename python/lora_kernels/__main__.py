"""`python -m lora_kernels doctor`: what was found on this machine, and what is missing."""

from __future__ import annotations

import argparse
import json
import sys

from . import doctor


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lora_kernels")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "doctor",
        help="look for the library, the driver and its devices",
        description="Looks for the library, the driver and its devices, and loads the kernels on "
        "each device as a program would. Exit status 0 if at least one device runs them, else 3.",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    findings = doctor.examine()
    print(json.dumps(doctor.as_dict(findings), indent=2) if given.json else doctor.text(findings))
    return 0 if findings.usable else 3


if __name__ == "__main__":
    sys.exit(main())
