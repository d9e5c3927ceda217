"""Hypothesis strategies for messages, made from the types themselves: a new message or field is covered at once."""

from typing import Annotated, Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from taube.wire.codec import COMMANDS, EVENTS, REPLIES
from taube.wire.packing import Meta, Record

ALL_KINDS: tuple[type[Record], ...] = (*COMMANDS.values(), *REPLIES.values(), *EVENTS.values())

_GENEROUS = 80
"""Random fields stay this short, except that the longest allowed ones are tried on their own."""


def of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values that *annotation* allows."""
    if get_origin(annotation) is Annotated:
        inner, *extras = get_args(annotation)
        meta = next((extra for extra in extras if isinstance(extra, Meta)), Meta())
        return _limited(inner, meta)
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return message(annotation)
    return _limited(annotation, Meta())


def message(kind: type[Record]) -> st.SearchStrategy[Any]:
    """Messages of one *kind*."""
    hints = get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: of(hints[name]) for name in kind.__struct_fields__})


def any_message() -> st.SearchStrategy[Any]:
    """Messages of every kind."""
    return st.sampled_from(ALL_KINDS).flatmap(message)


def _limited(inner: Any, meta: Meta) -> st.SearchStrategy[Any]:
    low, high = meta.min_length or 0, meta.max_length if meta.max_length is not None else _GENEROUS
    if inner is bytes:
        random = st.binary(min_size=low, max_size=max(low, min(high, _GENEROUS)))
        return random | st.sampled_from([b"\xff" * low, b"\x00" * high])
    if inner is str:
        return st.text(max_size=min(high, _GENEROUS))
    if inner is bool:
        return st.booleans()
    if inner is int:
        return st.integers(min_value=meta.ge if meta.ge is not None else 0, max_value=meta.le)
    if get_origin(inner) is list:
        return st.lists(of(get_args(inner)[0]), min_size=low, max_size=max(low, min(high, 5)))
    raise TypeError(f"no strategy for {inner!r}")
