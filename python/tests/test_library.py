"""Finding the library, in processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lora_kernels
from lora_kernels import _library

USE = "import lora_kernels; print(lora_kernels.DeviceProps.named('h100').multiprocessors)"


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, without a library in it."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(
        Path(lora_kernels.__file__).parent,
        folder / "lora_kernels",
        ignore=shutil.ignore_patterns("__pycache__", "*.so"),
    )
    return folder


@pytest.fixture(scope="session")
def library() -> Path:
    """The library that these tests use."""
    return Path(_library.library()._name).resolve()


def run(program: str, package: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name != "LORA_KERNELS_LIBRARY"
    }
    environment |= {"PYTHONPATH": str(package)} | variables
    return subprocess.run(
        [sys.executable, "-B", "-c", program], env=environment, capture_output=True, text=True
    )


def test_importing_needs_no_library_and_using_names_what_was_tried(sources: Path) -> None:
    assert run("import lora_kernels", sources).returncode == 0
    failed = run(USE, sources, LD_LIBRARY_PATH="")
    assert failed.returncode == 1
    assert (
        "LibraryNotFound: there is no liblora_kernels.so (LORA_KERNELS_LIBRARY is not set"
        in failed.stderr
    )
    assert "install the package's wheel" in failed.stderr


def test_a_library_that_is_none_is_named(tmp_path: Path, sources: Path) -> None:
    wrong = tmp_path / "wrong.so"
    wrong.write_text("no library")
    failed = run(USE, sources, LORA_KERNELS_LIBRARY=str(wrong))
    assert f"LORA_KERNELS_LIBRARY={wrong} can't be loaded" in failed.stderr
    failed = run(USE, sources, LORA_KERNELS_LIBRARY="libc.so.6")
    assert "libc.so.6 is not the library that this package is for" in failed.stderr


def test_the_library_is_found_beside_the_package_and_by_the_loader(
    tmp_path: Path, sources: Path, library: Path
) -> None:
    shutil.copytree(sources / "lora_kernels", tmp_path / "lora_kernels")
    (tmp_path / "lora_kernels" / "liblora_kernels.so").symlink_to(library)
    assert run(USE, tmp_path).stdout == "132\n"
    folder = tmp_path / "loader"
    folder.mkdir()
    # Installed, it has its soname; the other name may be there for linking only.
    for name in ("liblora_kernels.so.0.1", "liblora_kernels.so"):
        (folder / name).symlink_to(library)
        assert run(USE, sources, LD_LIBRARY_PATH=str(folder)).stdout == "132\n"
        (folder / name).unlink()


def test_without_a_driver_plans_can_be_made_and_kernels_say_what_is_missing(
    tmp_path: Path, sources: Path, library: Path
) -> None:
    for name in ("libcuda.so", "libcuda.so.1"):
        (tmp_path / name).write_text("no library")
    variables = {
        "LORA_KERNELS_LIBRARY": str(library),
        "LD_LIBRARY_PATH": str(tmp_path),
    }
    assert run(USE, sources, **variables).stdout == "132\n"
    failed = run("import lora_kernels; lora_kernels.Kernels(0)", sources, **variables)
    assert "no CUDA driver" in failed.stderr and "[LORA_STATUS_NO_DRIVER]" in failed.stderr
    failed = run("from lora_kernels import cuda; cuda.allocate((1,), None)", sources, **variables)
    assert "no CUDA driver" in failed.stderr and "Install the NVIDIA driver" in failed.stderr
