"""Finding and loading the shared library."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from pathlib import Path

from . import _abi
from .errors import LibraryNotFound, LoraError

FILE = "liblora_kernels.so"
# The system's loader knows an installed library by this name. The other one is for linking, and may
# be missing.
SONAME = f"{FILE}.{_abi.VERSION >> 16}.{_abi.VERSION >> 8 & 0xFF}"
VARIABLE = "LORA_KERNELS_LIBRARY"

_HOW = (
    f"install the package's wheel, which has it (`cargo xtask wheel` builds one), or build it with "
    f"`cargo xtask capi` and set {VARIABLE} to its path, or put {FILE} beside this package or "
    "where the system's loader looks"
)


@functools.cache
def library() -> ctypes.CDLL:
    """The library that `LORA_KERNELS_LIBRARY` names.

    Without that variable, the one beside this package, or the system's.
    """
    found = _load()
    try:
        for name, (result, arguments) in _abi.FUNCTIONS.items():
            function = getattr(found, name)
            function.restype = result
            function.argtypes = arguments
    except AttributeError as error:
        raise LibraryNotFound(
            f"{found._name} is not the library that this package is for ({error}): {_HOW}"
        ) from error
    version = found.lora_version()
    if version >> 8 != _abi.VERSION >> 8:
        raise LibraryNotFound(
            f"{found._name} is version {version_text(version)}, this package is for "
            f"{version_text(_abi.VERSION)}: they must agree in major and minor version"
        )
    return found


def version_text(version: int) -> str:
    """A version as `lora_version` gives it: major.minor.patch."""
    return f"{version >> 16}.{version >> 8 & 0xFF}.{version & 0xFF}"


def _load() -> ctypes.CDLL:
    named = os.environ.get(VARIABLE)
    if named:
        try:
            return ctypes.CDLL(named)
        except OSError as error:
            raise LibraryNotFound(f"{VARIABLE}={named} can't be loaded: {error}") from error
    beside = Path(__file__).parent / FILE
    if beside.exists():
        try:
            return ctypes.CDLL(str(beside))
        except OSError as error:
            raise LibraryNotFound(f"{beside} can't be loaded: {error}") from error
    with contextlib.suppress(OSError):
        return ctypes.CDLL(SONAME)
    try:
        return ctypes.CDLL(FILE)
    except OSError as error:
        raise LibraryNotFound(
            f"there is no {FILE} ({VARIABLE} is not set, {beside} does not exist, and {error}): "
            f"{_HOW}"
        ) from error


def check(status: int) -> None:
    """Raises `LoraError` unless the status is that of success."""
    if status == _abi.STATUS_OK:
        return
    lib = library()
    name = lib.lora_status_name(status).decode()
    text = lib.lora_last_error().decode()
    raise LoraError(status, name, text, lib.lora_last_cuda_result())
