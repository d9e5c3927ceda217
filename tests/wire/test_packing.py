"""How deep arrays and maps stand in one another."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taube.wire.packing import MAX_DEPTH, PackingError, check_depth, pack
from tests.spec import spec

sizes = st.sampled_from([0, 1, 2, 4, 8, 15, 16, 31, 32, 255, 256, 65_535, 65_536])
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | sizes.map(lambda size: b"\x91" * size)
    | sizes.map(lambda size: "x" * size)
    | sizes.map(lambda size: msgspec.msgpack.Ext(1, b"\x91" * size))
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=20,
)


def depth(value: Any) -> int:
    """The arrays and maps that stand in one another in *value*."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def wrapped(value: Any, times: int) -> Any:
    for _ in range(times):
        value = [None, value, b"\x91"]
    return value


@spec("CNT-01")
@given(values)
def test_values_may_be_as_deep_as_the_limit_and_no_deeper(value: Any) -> None:
    fits = wrapped(value, MAX_DEPTH - depth(value))
    check_depth(pack(fits))
    with pytest.raises(PackingError):
        check_depth(pack([fits]))
    with pytest.raises(PackingError):
        check_depth(pack({"key": fits}))


@spec("CNT-01")
@pytest.mark.parametrize("count", [15, 16, 65_535, 65_536])
def test_what_stands_side_by_side_is_not_deep(count: int) -> None:
    check_depth(pack([[]] * count))
    check_depth(pack([{number: [] for number in range(count)}, []]))
    with pytest.raises(PackingError):
        check_depth(pack([[[]] * count, wrapped([], MAX_DEPTH - 1)]))
    with pytest.raises(PackingError):
        check_depth(pack([{number: [] for number in range(count)}, wrapped([], MAX_DEPTH - 1)]))
