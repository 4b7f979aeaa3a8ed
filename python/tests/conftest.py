from __future__ import annotations

from collections.abc import Iterator

import pytest

from lora_kernels import Kernels


@pytest.fixture(scope="session")
def kernels() -> Iterator[Kernels]:
    with Kernels(0) as loaded:
        yield loaded
