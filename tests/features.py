"""What a test needs of the installed host; where the host lacks it the test is skipped with the reason."""

from __future__ import annotations

from typing import Any

import pytest


def offered(module: str, name: str) -> Any:
    """The attribute of a host's module, or a skip that names it."""
    host = pytest.importorskip(module, exc_type=ModuleNotFoundError)
    if not hasattr(host, name):
        pytest.skip(f"the installed host has no {module}.{name}")
    return getattr(host, name)
