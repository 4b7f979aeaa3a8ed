"""Names the wheel for the system of the library, if one lies in the package.

The rest is in pyproject.toml. Any Python 3 can use the library, through ctypes.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel

LIBRARY = Path(__file__).parent / "lora_kernels" / "liblora_kernels.so"


class Package(Distribution):
    """A package that is for one system if a library lies in it."""

    def has_ext_modules(self) -> bool:
        return LIBRARY.exists()


class Wheel(bdist_wheel):
    """A wheel for any Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        *_, platform = super().get_tag()
        return "py3", "none", platform


setup(distclass=Package, cmdclass={"bdist_wheel": Wheel})
