"""Rewrites the generated parts of the documents from the code, so that no table lags behind what it describes.

    python scripts/generate_docs.py           write
    python scripts/generate_docs.py --check   exit 1 and name the documents that would change

A generated part stands between `<!-- generated: name -->` and `<!-- end -->`; its name is a key of PARTS.
"""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from taube.wire import codec, messages
from taube.wire.errors import CATALOGUE
from taube.wire.packing import Meta, Record, tag_of
from taube.wire.session import ANSWERS, TRANSITIONS, State

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def sentence(kind: type) -> str:
    """The docstring as one line."""
    return " ".join((kind.__doc__ or "").split())


def shape(annotation: Any) -> str:
    """A field's type and limits in words."""
    meta = Meta()
    if get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        meta = next((extra for extra in extras if isinstance(extra, Meta)), meta)
    if get_origin(annotation) is list:
        return f"{span(meta.min_length or 0, meta.max_length)} × ({shape(get_args(annotation)[0])})"
    if annotation is bytes:
        return f"{span(meta.min_length or 0, meta.max_length)} bytes"
    if annotation is str:
        return f"text, {span(0, meta.max_length)} characters"
    if annotation is int:
        return f"number, {span(int(meta.ge or 0), None if meta.le is None else int(meta.le))}"
    return str(annotation.__name__) if isinstance(annotation, type) else str(annotation)


def span(low: int, high: int | None) -> str:
    """A range of numbers, the usual bounds by name."""
    names = {2**53: "2^53", 0xFFFF_FFFF: "2^32 - 1"}
    if high is None:
        return f"from {low:,}"
    top = names.get(high, f"{high:,}")
    return top if low == high else f"{low:,} to {top}"


def fields(kind: type[Record]) -> str:
    """All fields of a message, in order."""
    hints = get_type_hints(kind, include_extras=True)
    optional = len(kind.__struct_fields__) - len(kind.__struct_defaults__)
    described = [
        f"*{name}*{' (optional)' if at >= optional else ''}: {shape(hints[name])}"
        for at, name in enumerate(kind.__struct_fields__)
    ]
    return "; ".join(described) or "–"


def message_table(kinds: dict[int, Any]) -> str:
    """Number, name, fields and meaning of messages."""
    return table(
        ("number", "message", "fields", "meaning"),
        ((str(number), f"`{kind.__name__}`", fields(kind), sentence(kind)) for number, kind in sorted(kinds.items())),
    )


def parts_table() -> str:
    """The records that stand inside messages."""
    kinds = [
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, Record) and kind is not Record and not has_number(kind)
    ]
    return table(
        ("part", "fields", "meaning"), ((f"`{kind.__name__}`", fields(kind), sentence(kind)) for kind in kinds)
    )


def has_number(kind: type[Record]) -> bool:
    """Whether *kind* is a message of its own."""
    try:
        tag_of(kind)
    except TypeError:
        return False
    return True


def states_table() -> str:
    """What may cross in each state; an arrow where it leads to another."""

    def crossing(state: State, kinds: Iterable[type]) -> str:
        found = []
        for kind in kinds:
            after = TRANSITIONS.get((state, kind))
            if after is not None:
                found.append(f"{kind.__name__}{'' if after is state else f' → {after.name}'}")
        return ", ".join(found) or "–"

    return table(
        ("state", "commands", "replies and events"),
        (
            (
                state.name,
                crossing(state, codec.COMMANDS.values()),
                crossing(state, [*codec.REPLIES.values(), *codec.EVENTS.values()]),
            )
            for state in State
        ),
    )


def commands_table() -> str:
    """Commands, with the reply to each."""
    rows = []
    for number, kind in sorted(codec.COMMANDS.items()):
        answer = ANSWERS.get(kind)
        rows.append(
            (
                str(number),
                f"`{kind.__name__}`",
                fields(kind),
                f"`{answer.__name__}`" if answer else "–",
                sentence(kind),
            )
        )
    return table(("number", "command", "fields", "answer", "meaning"), rows)


def errors_table() -> str:
    """The catalogue of errors."""
    return table(
        ("number", "name", "whose to change", "again", "closes", "meaning"),
        (
            (
                str(kind.code),
                f"`{kind.name}`",
                kind.fault.value,
                kind.retry.value,
                "yes" if kind.closes else "",
                kind.meaning,
            )
            for kind in CATALOGUE.values()
        ),
    )


PARTS: dict[str, Callable[[], str]] = {
    "states": states_table,
    "commands": commands_table,
    "replies": lambda: message_table(codec.REPLIES),
    "events": lambda: message_table(codec.EVENTS),
    "parts": parts_table,
    "errors": errors_table,
}


def rewritten(text: str) -> str:
    """*text* with its generated parts made anew. Raises KeyError for a part that nobody makes."""
    return MARK.sub(lambda found: f"{found[1]}\n{PARTS[found['name']]()}\n{found[3]}", text)


def outdated() -> dict[Path, str]:
    """The documents whose generated parts are not current, with what they should be."""
    found = {}
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = document.read_text()
        if "<!-- generated: " in text and rewritten(text) != text:
            found[document] = rewritten(text)
    return found


def main(arguments: list[str]) -> int:
    """Write or check."""
    changed = outdated()
    for document, text in changed.items():
        if arguments == ["--check"]:
            print(f"{document.relative_to(ROOT)} is not current: run `make docs`", file=sys.stderr)
        else:
            document.write_text(text)
    return 1 if changed and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
