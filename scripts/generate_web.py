"""What the phone app knows of the wire, written from Python's own tables: messages, errors, states.

`generate_docs.py` puts these parts into web/src/wire/*.ts, between `// generated: name` and `// end`, and a test fails
where they are not current: the two languages cannot drift apart. The text is as the app's formatter would write it.
"""

from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from taube.wire import codec, errors, messages
from taube.wire.errors import CATALOGUE, ErrorKind
from taube.wire.packing import Meta, Record, tag_of
from taube.wire.session import ANSWERS, TRANSITIONS, State

CEILING = 2**53
LINE = 120
KINDS = [*codec.COMMANDS.values(), *codec.REPLIES.values(), *codec.EVENTS.values()]


def camel(name: str) -> str:
    """A Python name as TypeScript has it."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def comment(kind: type, indent: str) -> str:
    """The docstring as a comment; Python's names for fields in it become ours."""
    lines = [line.strip() for line in (kind.__doc__ or "").strip().splitlines()]
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    inner = "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines)
    return f"{indent}/**\n{inner}{indent} */\n"


def bare(annotation: Any) -> tuple[Any, Meta]:
    """A field's type, and its limits."""
    if get_origin(annotation) is not Annotated:
        return annotation, Meta()
    annotation, *extras = get_args(annotation)
    return annotation, next((extra for extra in extras if isinstance(extra, Meta)), Meta())


def shape(annotation: Any) -> str:
    """A field's type and limits, as a call of shapes.ts."""
    annotation, meta = bare(annotation)
    if get_origin(annotation) is list:
        return f"list({meta.min_length or 0}, {meta.max_length}, {shape(get_args(annotation)[0])})"
    if annotation is bytes:
        return f"bytes({meta.min_length or 0}, {meta.max_length})"
    if annotation is str:
        return f"text({meta.max_length})"
    if annotation is int:
        return f"whole({meta.ge or 0}, {'CEILING' if meta.le == CEILING else meta.le})"
    if annotation is bool:
        return "flag"
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return f"record({annotation.__name__}Fields)"
    raise TypeError(f"no shape for {annotation}")


def default(value: Any) -> str:
    """A field's default."""
    if value == b"":
        return "NO_BYTES"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | str):
        return repr(value).replace("'", '"')
    return "[]"


def fields(kind: type[Record]) -> str:
    """The fields of a message, one a line."""
    hints = get_type_hints(kind, include_extras=True)
    names, defaults = kind.__struct_fields__, kind.__struct_defaults__
    required = len(names) - len(defaults)
    lines = []
    for at, name in enumerate(names):
        is_optional = at >= required
        shown = shape(hints[name])
        lines.append(
            f"{camel(name)}: " + (f"optional({shown}, {default(defaults[at - required])})" if is_optional else shown)
        )
    return "".join(f"    {line},\n" for line in lines)


def constants_part() -> str:
    """Every constant of messages.py that is a number."""
    found = [(name, value) for name, value in vars(messages).items() if name.isupper() and isinstance(value, int)]
    return "".join(f"export const {name} = {value};\n" for name, value in found)


def messages_part() -> str:
    """Every message with its number and fields, and a type for each."""
    parts = [kind for kind in vars(messages).values() if _is_part(kind)]
    text = ""
    for kind in parts:
        inner = fields(kind).replace("    ", "  ")
        text += f"{comment(kind, '')}export const {kind.__name__}Fields = {{\n{inner}}};\n"
        text += f"export type {kind.__name__} = FieldsOf<typeof {kind.__name__}Fields>;\n\n"
    text += "export const MESSAGES = {\n"
    for kind in KINDS:
        inner = fields(kind)
        body = f"{{\n{inner}  }}" if inner else "{}"
        text += f"{comment(kind, '  ')}  {kind.__name__}: message({tag_of(kind)}, {body}),\n"
    text += "};\n\n"
    for name, kinds in (("COMMANDS", codec.COMMANDS), ("REPLIES", codec.REPLIES), ("EVENTS", codec.EVENTS)):
        quoted = [f'"{kind.__name__}"' for kind in kinds.values()]
        line = f"export const {name} = [{', '.join(quoted)}] as const;\n"
        listed = "".join(f"  {each},\n" for each in quoted)
        text += line if len(line) <= LINE else f"export const {name} = [\n{listed}] as const;\n"
    return text + "\n" + "".join(f'export type {kind.__name__} = MessageOf<"{kind.__name__}">;\n' for kind in KINDS)


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Record) and kind is not Record and kind not in KINDS


def errors_part() -> str:
    """The catalogue."""
    names = {id(value): name for name, value in vars(errors).items() if isinstance(value, ErrorKind)}
    text = ""
    for kind in CATALOGUE.values():
        closes = ", true" if kind.closes else ""
        given = f'{kind.code}, "{kind.name}", Fault.{kind.fault.name}, Retry.{kind.retry.name}{closes}'
        text += f"/** {kind.meaning} */\nexport const {names[id(kind)]} = kind({given});\n"
    return text


def states_part() -> str:
    """The table of states, and which reply answers which command."""
    text = "export const TRANSITIONS: Transitions = {\n"
    for state in State:
        text += f"  [State.{state.name}]: {{\n"
        rows = [(kind, TRANSITIONS[state, kind]) for kind in KINDS if (state, kind) in TRANSITIONS]
        text += "".join(f"    {kind.__name__}: State.{after.name},\n" for kind, after in rows)
        text += "  },\n"
    text += "};\n\nexport const ANSWERS = {\n"
    return text + "".join(_answers(ANSWERS.items())) + "} as const;\n"


def _answers(pairs: Iterable[tuple[type, type]]) -> Iterable[str]:
    for command, reply in pairs:
        yield f'  {command.__name__}: "{reply.__name__}",\n'


PARTS = {
    "constants": constants_part,
    "messages": messages_part,
    "errors": errors_part,
    "states": states_part,
}
