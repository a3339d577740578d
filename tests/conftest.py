"""The order of the tests."""

from __future__ import annotations

import pytest

LONG = ("test_examples.py", "test_failure.py", "test_equality.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files of long tests first, so that workers end together."""
    items.sort(key=lambda item: item.path.name not in LONG)
