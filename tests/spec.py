"""Ties a test to the rules of the protocol that it proves: `@spec("CON-12")` above a test.

The documents under docs/protocol number every rule; tests/test_docs.py compares both directions.
"""

from collections.abc import Callable
from typing import TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., object] | type)


def spec(*rules: str) -> Callable[[Test], Test]:
    """Marks a test (or a class of tests) as proof of these rules, each written `ABC-12`."""

    def mark(test: Test) -> Test:
        for rule in rules:
            test = pytest.mark.spec(rule)(test)
        return test

    return mark
