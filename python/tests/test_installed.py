"""The package as its wheel installs it: `cargo xtask python` runs all tests on that."""

from __future__ import annotations

import os
import re
import struct
from importlib import metadata
from pathlib import Path

import pytest

import lora_kernels
from lora_kernels import _library

if os.environ.get("LORA_KERNELS_TEST_WHEEL") != "1":
    pytest.skip(
        "LORA_KERNELS_TEST_WHEEL is not 1 (cargo xtask python sets it)", allow_module_level=True
    )

PACKAGE = Path(lora_kernels.__file__).parent
SOURCES = Path(__file__).parents[1] / "lora_kernels"


def files() -> list[str]:
    return [str(file) for file in metadata.files("lora-kernels") or []]


def test_the_package_and_its_library_are_those_of_the_wheel() -> None:
    assert PACKAGE.parent.name == "site-packages"
    installed = metadata.distribution("lora-kernels")
    assert installed.locate_file("lora_kernels") == PACKAGE
    assert Path(_library.library()._name) == PACKAGE / "liblora_kernels.so"
    assert installed.version == lora_kernels.__version__


def test_everything_of_the_sources_is_installed() -> None:
    sources = {
        str(path.relative_to(SOURCES.parent))
        for path in SOURCES.rglob("*")
        if path.suffix in (".py", ".typed")
    }
    assert "lora_kernels/py.typed" in sources
    package = {file for file in files() if file.startswith("lora_kernels/")}
    assert package == sources | {"lora_kernels/liblora_kernels.so"}


def test_licences_are_installed_also_those_of_crates_in_the_library() -> None:
    texts = {
        Path(file).name: (PACKAGE.parent / file).read_text()
        for file in files()
        if "/licenses/" in file
    }
    assert sorted(texts) == ["LICENSE-APACHE", "LICENSE-MIT", "LICENSE-THIRD-PARTY"]
    for crate in ("cudarc", "half", "libc", "thiserror"):
        assert re.search(rf"^{crate} [\d.]+, .*MIT", texts["LICENSE-THIRD-PARTY"], re.MULTILINE)
    assert "Permission is hereby granted" in texts["LICENSE-THIRD-PARTY"]


def test_nothing_else_is_asked_for_and_the_wheel_is_for_any_python() -> None:
    installed = metadata.distribution("lora-kernels")
    assert all("extra ==" in needed for needed in installed.requires or [])
    wheel = installed.read_text("WHEEL") or ""
    assert "Root-Is-Purelib: false" in wheel
    assert re.search(r"^Tag: py3-none-(many)?linux\w+$", wheel, re.MULTILINE)


def sections(library: bytes) -> set[bytes]:
    """The names of an ELF file's sections."""
    (table,) = struct.unpack_from("<Q", library, 40)
    size, count, names = struct.unpack_from("<HHH", library, 58)
    entries = [struct.unpack_from("<IIQQQQ", library, table + i * size) for i in range(count)]
    start = entries[names][4]
    return {library[start + entry[0] :].split(b"\0", 1)[0] for entry in entries}


def test_the_library_is_stripped_and_knows_nothing_of_whose_crates_it_was_built_from() -> None:
    library = (PACKAGE / "liblora_kernels.so").read_bytes()
    found = sections(library)
    assert b".text" in found and b".dynsym" in found
    assert not found & {b".symtab", b".debug_info", b".debug_line"}
    assert b"/.cargo/" not in library
