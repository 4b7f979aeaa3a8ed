"""The package's idea of the C ABI is the header's."""

from __future__ import annotations

import ctypes
import re
import subprocess
from enum import IntEnum
from pathlib import Path

import pytest

from lora_kernels import DType, Mask, Role, WeightLayout, _abi
from lora_kernels._library import library

INCLUDE = Path(__file__).parents[2] / "crates" / "lora-kernels-capi" / "include"
HEADER = (INCLUDE / "lora_kernels.h").read_text()

CONSTANTS = {
    "LORA_VERSION": _abi.VERSION,
    "LORA_MAX_PROJECTIONS": _abi.MAX_PROJECTIONS,
    "LORA_MAX_ADAPTERS": _abi.MAX_ADAPTERS,
    "LORA_BUFFER_ALIGNMENT": _abi.BUFFER_ALIGNMENT,
    "LORA_MERGE_REPORT_BYTES": _abi.MERGE_REPORT_BYTES,
    "LORA_STATUS_OK": _abi.STATUS_OK,
}
ENUMS: dict[str, type[IntEnum]] = {
    "LORA_DTYPE": DType,
    "LORA_ROLE": Role,
    "LORA_MASK": Mask,
    "LORA_WEIGHT_LAYOUT": WeightLayout,
}


def test_structs_and_numbers_are_what_gcc_makes_of_the_header(tmp_path: Path) -> None:
    wanted = dict(CONSTANTS)
    for prefix, enum in ENUMS.items():
        wanted |= {f"{prefix}_{one.name}": int(one) for one in enum}
    for name, struct in _abi.STRUCTS.items():
        wanted[f"sizeof({name})"] = ctypes.sizeof(struct)
        for field, *_ in struct._fields_:
            descriptor = getattr(struct, field)
            wanted[f"offsetof({name}, {field})"] = descriptor.offset
            wanted[f"sizeof((({name} *)0)->{field})"] = descriptor.size
    prints = "\n".join(f'    printf("%lld\\n", (long long){expression});' for expression in wanted)
    source = tmp_path / "numbers.c"
    source.write_text(
        "#include <stdio.h>\n#include <lora_kernels.h>\n"
        f"int main(void) {{\n{prints}\n    return 0;\n}}\n"
    )
    program = tmp_path / "numbers"
    subprocess.run(["gcc", "-std=c11", "-I", INCLUDE, source, "-o", program], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    assert dict(zip(wanted, map(int, printed), strict=True)) == wanted


def test_nothing_of_the_header_is_missing() -> None:
    structs = dict(re.findall(r"typedef struct (\w+) \{\n(.*?)\n\} \1;", HEADER, re.DOTALL))
    assert structs.keys() == _abi.STRUCTS.keys()
    for name, body in structs.items():
        fields = re.findall(r"^    [^/].*?(\w+)(?:\[\w+\])?;$", body, re.MULTILINE)
        assert fields == [field for field, *_ in _abi.STRUCTS[name]._fields_], name
    functions = re.findall(r"^[\w ]*?[ *](lora_\w+)\(", HEADER, re.MULTILINE)
    assert sorted(functions) == sorted(_abi.FUNCTIONS)
    for prefix, enum in ENUMS.items():
        assert len(re.findall(rf"^    {prefix}_\w+ = \d+,$", HEADER, re.MULTILINE)) == len(enum), (
            prefix
        )


def test_the_library_is_of_this_version() -> None:
    assert library().lora_version() == _abi.VERSION


@pytest.mark.parametrize("name", _abi.FUNCTIONS)
def test_functions_take_as_many_arguments_as_in_c(name: str) -> None:
    declared = re.search(rf"{name}\(([^)]*)\);", HEADER)
    assert declared is not None
    arguments = [one for one in declared[1].split(",") if one.strip() != "void"]
    assert len(arguments) == len(_abi.FUNCTIONS[name][1])
