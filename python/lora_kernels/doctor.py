"""What this machine has of all that the kernels need: `python -m lora_kernels doctor`."""

from __future__ import annotations

import ctypes
import dataclasses
import platform
from ctypes import c_int, c_size_t
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__, _library, cuda
from .errors import CudaError, LibraryNotFound, LoraError
from .kernels import Kernels

#: The packages that this one works with, if they are there.
PACKAGES = ("torch", "peft", "transformers", "bitsandbytes")
#: The oldest devices that the kernels are for.
OLDEST = (8, 0)

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass
class Device:
    """A device of the driver, and whether the kernels run on it."""

    number: int
    name: str = "a device without a name"
    #: Compute capability.
    capability: tuple[int, int] | None = None
    memory_bytes: int | None = None
    problem: str | None = None

    @property
    def usable(self) -> bool:
        """Whether the kernels run on it."""
        return self.problem is None


@dataclass
class Findings:
    """What was found."""

    version: str = __version__
    python: str = field(default_factory=platform.python_version)
    #: The folder of this package.
    package: str = str(Path(__file__).parent)
    #: Versions of other packages by name; None if one isn't installed.
    packages: dict[str, str | None] = field(default_factory=dict)
    #: The path or name of the library, and its version.
    library: str | None = None
    library_version: str | None = None
    #: The newest CUDA version that the driver supports; None without a driver.
    cuda: str | None = None
    devices: list[Device] = field(default_factory=list)
    #: What is wrong, and what to do.
    problems: list[str] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether at least one device runs the kernels."""
        return any(device.usable for device in self.devices)


def examine() -> Findings:
    """Looks for everything. It imports no other package, and raises nothing for what is missing."""
    findings = Findings(packages={name: _version_of(name) for name in PACKAGES})
    try:
        library = _library.library()
        findings.library = library._name
        findings.library_version = _library.version_text(library.lora_version())
    except LibraryNotFound as error:
        findings.problems.append(str(error))
    try:
        version, count = c_int(), c_int()
        cuda.call("cuDriverGetVersion", ctypes.byref(version))
        findings.cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
        cuda.call("cuDeviceGetCount", ctypes.byref(count))
    except CudaError as error:
        findings.problems.append(
            f"the driver doesn't start ({error}): a driver and a kernel module of different "
            "versions, no permission for /dev/nvidia*, or no device that CUDA_VISIBLE_DEVICES "
            "shows; nvidia-smi may say more"
        )
        return findings
    except OSError as error:
        findings.problems.append(str(error))
        return findings
    if count.value == 0:
        findings.problems.append(
            "the driver has no device: is there a GPU, and does CUDA_VISIBLE_DEVICES hide it?"
        )
    findings.devices = [
        _device(number, findings.library is not None) for number in range(count.value)
    ]
    findings.problems += [
        f"device {device.number}: {device.problem}"
        for device in findings.devices
        if device.problem and findings.library is not None
    ]
    return findings


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device(number: int, has_library: bool) -> Device:
    found = Device(number)
    handle, major, minor = c_int(), c_int(), c_int()
    name, memory = ctypes.create_string_buffer(256), c_size_t()
    try:
        cuda.call("cuDeviceGet", ctypes.byref(handle), number)
        cuda.call("cuDeviceGetName", name, len(name), handle)
        cuda.call("cuDeviceGetAttribute", ctypes.byref(major), _CAPABILITY_MAJOR, handle)
        cuda.call("cuDeviceGetAttribute", ctypes.byref(minor), _CAPABILITY_MINOR, handle)
        cuda.call("cuDeviceTotalMem_v2", ctypes.byref(memory), handle)
    except CudaError as error:
        found.problem = str(error)
        return found
    found.name = name.value.decode(errors="replace")
    found.capability = (major.value, minor.value)
    found.memory_bytes = memory.value
    found.problem = _problem(found.capability) or (
        _loading(number) if has_library else "there is no library whose kernels could be loaded"
    )
    return found


def _problem(capability: tuple[int, int]) -> str | None:
    """What is wrong with a compute capability, if something is."""
    if capability >= OLDEST:
        return None
    return (
        f"compute capability {capability[0]}.{capability[1]} is too old: the kernels are for "
        f"{OLDEST[0]}.{OLDEST[1]} (A100, RTX 3090) and later"
    )


def _loading(number: int) -> str | None:
    """What goes wrong when the kernels are loaded, if something does."""
    try:
        Kernels(number).close()
    except LoraError as error:
        return str(error)
    return None


def as_dict(findings: Findings) -> dict[str, Any]:
    """The findings as JSON has them."""
    found = dataclasses.asdict(findings) | {"usable": findings.usable}
    for device, entry in zip(findings.devices, found["devices"]):
        entry["usable"] = device.usable
    return found


def text(findings: Findings) -> str:
    """The findings, to read."""
    lines = [
        f"lora-kernels {findings.version} in {findings.package}",
        f"python   {findings.python}",
    ]
    for name, version in findings.packages.items():
        lines.append(f"         {name} {version or 'is not installed'}")
    lines.append(
        f"library  {findings.library}, version {findings.library_version}"
        if findings.library
        else "library  none"
    )
    lines.append(f"driver   {'CUDA ' + findings.cuda if findings.cuda else 'none that works'}")
    for device in findings.devices:
        major, minor = device.capability or (0, 0)
        memory = (device.memory_bytes or 0) / 2**30
        lines.append(
            f"device {device.number} {device.name}: compute capability {major}.{minor}, "
            f"{memory:.1f} GiB of memory"
        )
        if device.usable:
            lines.append("         the kernels load")
    lines += [f"problem  {problem}" for problem in findings.problems]
    return "\n".join(lines)
