"""`python -m lora_kernels doctor`, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lora_kernels
from lora_kernels import doctor


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(lora_kernels.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-B", "-m", "lora_kernels", "doctor", *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
    )


def test_a_device_that_runs_the_kernels_is_found() -> None:
    found = run()
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"lora-kernels {lora_kernels.__version__} in " in found.stdout
    assert "the kernels load" in found.stdout and "problem" not in found.stdout
    as_json = json.loads(run("--json").stdout)
    assert as_json["usable"] and as_json["devices"][0]["usable"]
    assert as_json["library_version"] == lora_kernels.__version__
    assert tuple(as_json["devices"][0]["capability"]) >= doctor.OLDEST
    assert set(as_json["packages"]) == set(doctor.PACKAGES)


@pytest.mark.skipif(
    os.environ.get("LORA_KERNELS_DEVICE") == "real", reason="only the emulated driver can be older"
)
def test_a_driver_that_is_too_old_is_named() -> None:
    found = run(PTX_EMULATOR_DRIVER_VERSION="11040")
    assert found.returncode == 3
    assert "driver   CUDA 11.4\n" in found.stdout
    assert "problem  device 0: " in found.stdout and "LORA_STATUS_DRIVER" in found.stdout
    assert "11.4" in found.stdout.split("problem", 1)[1]


def test_no_driver_and_no_library_are_named(tmp_path: Path) -> None:
    for name in ("libcuda.so", "libcuda.so.1"):
        (tmp_path / name).write_text("no library")
    found = run(LD_LIBRARY_PATH=str(tmp_path), LORA_KERNELS_LIBRARY=str(tmp_path / "missing.so"))
    assert found.returncode == 3
    assert "library  none\n" in found.stdout and "driver   none that works\n" in found.stdout
    assert "missing.so can't be loaded" in found.stdout
    assert "Install the NVIDIA driver" in found.stdout
    without_library = run(LORA_KERNELS_LIBRARY=str(tmp_path / "missing.so"))
    assert without_library.returncode == 3
    assert "device 0 " in without_library.stdout
    assert "the kernels load" not in without_library.stdout


def test_devices_before_8_0_are_too_old() -> None:
    assert doctor._problem((8, 0)) is None and doctor._problem((12, 0)) is None
    for capability in [(7, 5), (6, 1)]:
        assert f"{capability[0]}.{capability[1]} is too old" in str(doctor._problem(capability))
