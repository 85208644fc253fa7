from types import ModuleType

import pytest

from .build import load


@pytest.fixture(scope="session")
def emulated() -> ModuleType:
    return load()
