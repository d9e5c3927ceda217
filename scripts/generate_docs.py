"""Rewrites the generated parts of the documents from the code, so that no table lags behind what it describes.

    python -m scripts.generate_docs           write
    python -m scripts.generate_docs --check   exit 1 and name the documents that would change

A generated part stands between `<!-- generated: name -->` and `<!-- end -->`; its name is a key of PARTS. The privacy
ledger is generated as a whole. In the phone app's sources the marks are comments, and the parts are of generate_web.py.
"""

import ast
import dataclasses
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from bench import report
from scripts import generate_web
from taube.server.ledger import render_ledger
from taube.wire import codec, messages
from taube.wire.errors import CATALOGUE
from taube.wire.packing import Record, tag_of
from taube.wire.session import ANSWERS, MAX_UNDER_WAY, TRANSITIONS, State

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
MARK_IN_CODE = re.compile(r"(// generated: (?P<name>[\w-]+)\n).*?(// end\n)", re.DOTALL)


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
    annotation, meta = generate_web.bare(annotation)
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


def map_of(package: str) -> str:
    """Every module of a package (or of the top), with the first sentence of its head."""
    folder = ROOT / "src" / "taube" / package
    found = sorted(folder.rglob("*.py") if package else folder.glob("*.py"))
    rows = []
    for path in found:
        head = ast.get_docstring(ast.parse(path.read_text())) or ""
        if path.name != "__init__.py":
            link = os.path.relpath(path, ROOT / "docs")
            rows.append((f"[{path.relative_to(folder)}]({link})", first_sentence(head)))
    return table(("file", "what it is for"), rows)


def first_sentence(head: str) -> str:
    """The first sentence of a docstring."""
    text = " ".join(head.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)`”])\. ", text)[0].rstrip(".:") + "."


def settings_table() -> str:
    """Every setting of a server, by slice: name, default, meaning."""
    from taube.server.config import ServerConfig

    return table(("setting", "default", "meaning"), settings_of("", ServerConfig))


def settings_of(prefix: str, kind: type) -> list[tuple[str, str, str]]:
    """The fields of one slice with the docstring that stands behind each."""
    tree = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(tree, ast.ClassDef)
    meanings: dict[str, str] = {}
    for field, behind in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(behind, ast.Expr):
            meanings[field.target.id] = " ".join(str(getattr(behind.value, "value", "")).split())
    rows = []
    for name, default in ((setting.name, getattr(kind(), setting.name)) for setting in dataclasses.fields(kind)):
        if dataclasses.is_dataclass(default):
            rows += settings_of(f"{prefix}{name}.", type(default))
        elif not isinstance(default, tuple):
            rows.append((f"`{prefix}{name}`", shown(default), meanings.get(name, "–")))
    return rows


def shown(value: object) -> str:
    """A default."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1000:
        return f"{value:,}"
    return str(value)


def limits_table() -> str:
    """Every limit: what one thing may be, what may wait, how long it stays, and what clients may ask."""
    from taube.server.limits import LIMITS

    rows = [(what, per, default, above) for what, per, default, above in [*fixed_limits(), *set_limits()]]
    rows += [
        (
            limit.operation,
            limit.scope.value,
            f"{limit.burst:,.0f} {limit.unit} at once, {refill(limit.per_s)}",
            ABOVE.get(limit.operation, "`rate_limited`"),
        )
        for limit in LIMITS
    ]
    return table(("limit", "per", "default", "above it"), rows)


ABOVE = {"connect": "closed", "junk": "closed", "wake": "not woken, and nobody is told"}
"""What happens above a limit of what clients may ask, where it is no refusal."""


def fixed_limits() -> list[tuple[str, str, str, str]]:
    """What the protocol fixes, with its value from the code."""
    from taube.server.providers import web_push
    from taube.server.services import accounts, addresses, blobs, gates, identity, keys, mailboxes, push, registration

    return [
        ("frame", "message of the wire", f"{messages.MAX_FRAME_BYTES:,} bytes", "`too_large`"),
        ("requests under way", "connection", f"{MAX_UNDER_WAY:,}", "`busy`"),
        ("body", "envelope", f"{messages.MAX_BODY_BYTES:,} bytes", "`bad_frame`"),
        ("addresses", "`Send`", f"{messages.MAX_ADDRESSES:,}", "`bad_frame`"),
        ("value", "gate", f"{messages.MAX_GATE_VALUE_BYTES:,} bytes", "`bad_frame`"),
        ("addresses", "`MintAddresses`", f"{messages.MAX_MINT:,}", "`bad_frame`"),
        ("key packages", "`PublishKeyPackages`", f"{messages.MAX_PACKAGES_PER_PUBLISH:,}", "`bad_frame`"),
        ("size", "key package", f"{messages.MAX_KEY_PACKAGE_BYTES:,} bytes", "`bad_frame`"),
        ("key packages that wait", "device and suite", f"{keys.MAX_WAITING:,}", "`too_many_key_packages`"),
        ("devices", "account", f"{accounts.MAX_DEVICES:,}", "the list is refused"),
        ("changes of its key", "account", f"{accounts.MAX_SUCCESSIONS:,}", "the list is refused"),
        ("revoked addresses", "mailbox", f"{addresses.MAX_REVOKED:,}", "a new mailbox id at the next login"),
        ("share of a mailbox", "address", f"1/{mailboxes.SERIAL_SHARE} of it", "*full*"),
        ("envelope that waits", "mailbox", f"{mailboxes.ENVELOPE_DAYS} days", "deleted"),
        ("gate", "gate", f"{gates.GATE_DAYS} days", "forgotten"),
        ("key package", "device", f"the beginning of the month in which {keys.PACKAGE_DAYS} days end", "deleted"),
        ("upload without new bytes", "blob", f"{blobs.UNFINISHED_DAYS} days", "deleted"),
        ("push endpoints looked at", "everyone", f"{web_push.LOOKS:,}", "kept; the push looks"),
        ("pushes under way", "host", f"1/{push.HOST_SHARE} of `push.at_once`", "the rest waits for its turn"),
        ("expired invitation", "invitation", f"{registration.TOLD_DAYS} days", "forgotten"),
        ("retired address key", "server", f"{identity.RETIRED_DAYS} days", "its addresses end"),
    ]


SET_LIMITS = {
    "mailboxes.capacity_bytes": ("mailbox", "*full*"),
    "mailboxes.capacity_envelopes": ("mailbox", "*full*"),
    "mailboxes.window_envelopes": ("connection", "the rest waits for acknowledgements"),
    "mailboxes.window_bytes": ("connection", "the rest waits for acknowledgements"),
    "mailboxes.patience_s": ("envelope", "stored"),
    "mailboxes.live_bytes": ("everyone", "stored at once; ephemeral ones dropped from half of it on"),
    "mailboxes.backlog_bytes": ("everyone", "*busy*; ephemeral ones dropped from half of it on"),
    "mailboxes.loading_envelopes": ("everyone", "*busy*"),
    "mailboxes.remembered": ("everyone", "idle ones are looked up again"),
    "limits.keys": ("limit", "newcomers share one budget"),
    "sqlite.busy_timeout_ms": ("write", "`storage`"),
    "sqlite.backlog_jobs": ("everyone", "`busy`"),
    "listener.accepts_per_turn": ("turn of the loop", "the rest waits for the next turn"),
    "listener.handshakes_per_turn": ("turn of the loop", "the rest waits for the next turn"),
    "listener.connections": ("everyone", "closed; in the last 1/32 told `busy` and when to come back"),
    "listener.connections_per_source": ("source", "closed"),
    "listener.handshake_timeout_s": ("connection", "closed"),
    "listener.shutdown_timeout_s": ("connection", "closed"),
    "listener.head_timeout_s": ("connection", "closed"),
    "listener.http_timeout_s": ("HTTP request", "closed"),
    "listener.head_bytes": ("connection", "431"),
    "listener.http_body_bytes": ("HTTP request", "closed"),
    "connection.hello_timeout_s": ("connection", "`idle`, closed"),
    "connection.anonymous_idle_s": ("anonymous connection", "`idle`, closed"),
    "connection.device_idle_s": ("device connection", "`idle`, closed"),
    "connection.stalled_s": ("connection", "closed"),
    "connection.waiting_bytes": ("connection", "closed"),
    "connection.waiting_bytes_of_all": ("everyone", "those furthest behind are closed"),
    "connection.frames_bytes_of_all": ("everyone", "`busy`, those with the largest are closed"),
    "connection.frames_per_turn": ("connection", "the rest waits for the next turn"),
    "push.most_retry_s": ("push", "tried again after that"),
    "push.tries": ("push", "the device is not woken by it"),
    "push.remembered": ("everyone", "not woken"),
    "push.at_once": ("everyone", "the rest waits"),
    "push.timeout_s": ("push", "tried again"),
    "push.ttl_s": ("push", "forgotten by the push service"),
    "drain.goodbye_s": ("stop", "closed"),
    "drain.flush_s": ("stop", "ended all the same"),
    "blobs.blob_bytes": ("blob", "`blob_too_large`"),
    "blobs.total_bytes": ("everyone", "`no_room`"),
    "blobs.keep_free_bytes": ("everyone", "`no_room`"),
    "blobs.days": ("blob", "deleted"),
    "blobs.transfers": ("everyone", "`busy`"),
    "blobs.transfers_per_source": ("source", "`busy`"),
    "blobs.idle_s": ("transfer", "cut off"),
    "blobs.slowest_bytes_per_s": ("transfer", "below it, cut off"),
    "blobs.request_s": ("transfer", "cut off"),
    "unused_months": ("account", "forgotten"),
}
"""Settings that are limits: counted per what, and what happens above."""
NO_LIMITS = {
    "mailboxes.storage_retry_ms", "sqlite.cache_kib", "sqlite.checkpoint_pages", "sqlite.delete_pause_s",
    "sqlite.foreign_check_s", "listener.tls_in_bytes", "listener.tls_out_bytes", "listener.frame_buffer_bytes",
    "connection.device_ping_s", "push.again_s", "push.connected_s", "push.first_retry_s", "push.allow_private",
    "drain.spread_ms", "blobs.checkpoint_bytes",
}  # fmt: skip
"""Settings that are none."""


def set_limits() -> list[tuple[str, str, str, str]]:
    """The settings that are limits, by their name. Raises ValueError for one of which nobody has said what it is."""
    from taube.server.config import ServerConfig

    defaults = {name.strip("`"): default for name, default, _ in settings_of("", ServerConfig)}
    if unsaid := defaults.keys() ^ (SET_LIMITS.keys() | NO_LIMITS):
        raise ValueError(f"SET_LIMITS and NO_LIMITS are not the settings that there are: {sorted(unsaid)}")
    return [
        (f"`{name}`", SET_LIMITS[name][0], default, SET_LIMITS[name][1])
        for name, default in defaults.items()
        if name in SET_LIMITS
    ]


def refill(per_s: float) -> str:
    """A rate in the unit that makes it readable."""
    for unit, seconds in (("a second", 1), ("a minute", 60), ("an hour", 3600)):
        if per_s * seconds >= 1:
            return f"{per_s * seconds:,.0f} {unit}"
    return f"{per_s * 86_400:,.0f} a day"


def metrics_table() -> str:
    """The catalogue of metrics."""
    from taube.server.ops import waking, workers
    from taube.server.ops.observe import METRICS

    rows = (
        (f"`taube_{metric.name}`", metric.kind, metric.unit, reasons(metric), metric.help)
        for metric in METRICS + workers.METRICS + waking.METRICS
    )
    return table(("metric", "kind", "unit", "reasons", "meaning"), rows)


def reasons(metric: Any) -> str:
    """What its label may be."""
    return "[errors](protocol/connection.md#errors)" if metric.name == "refused" else ", ".join(metric.reasons) or "–"


def figures_table() -> str:
    """The figures of the last bench, in one sentence how they were taken, and each with its command."""
    results = json.loads((ROOT / "bench" / "results.json").read_text())
    machine, details = results["machine"], results["details"]
    checks = report.checks(details)
    storms = len(details["storm"])
    again = f", {checks['twice']:,} told again although long acknowledged" if "twice" in checks else ""
    taken = (
        f"Measured {results['measured_at'][:10]} by `{results['command']}`"
        f"{' (short runs)' if results['quick'] else ''} on {machine['cores']} cores ({machine['cpu']}), Python"
        f" {machine['python']}: medians. Of {checks['kept']:,} messages answered *kept* in {storms} times some"
        f" 1.5 s of load, each ended by kill -9, {checks['lost']:,} were lost{again}.\n\n"
    )
    rows = (
        (
            each["what"],
            f"{each['value']:.3g} {each['unit']}"
            f"{' (above its bar)' if each['bar'] is not None and each['value'] > each['bar'] else ''}",
            "" if each["bar"] is None else f"{each['bar']:g}",
            "" if each["aim"] is None else f"{each['aim']:g}",
            f"`{each['command']}`",
        )
        for each in results["figures"]
    )
    return taken + table(("what", "measured", "bar", "aim", "command"), rows)


PARTS: dict[str, Callable[[], str]] = {
    "figures": figures_table,
    "states": states_table,
    "commands": commands_table,
    "replies": lambda: message_table(codec.REPLIES),
    "events": lambda: message_table(codec.EVENTS),
    "parts": parts_table,
    "errors": errors_table,
    "map-top": lambda: map_of(""),
    "map-wire": lambda: map_of("wire"),
    "map-server": lambda: map_of("server"),
    "map-client": lambda: map_of("client"),
    "limits": limits_table,
    "settings": settings_table,
    "metrics": metrics_table,
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
    for source in (ROOT / "web" / "src" / "wire").glob("*.ts"):
        text = source.read_text()
        current = MARK_IN_CODE.sub(lambda part: f"{part[1]}{generate_web.PARTS[part['name']]()}{part[3]}", text)
        if current != text:
            found[source] = current
    ledger = ROOT / "docs" / "privacy-ledger.md"
    if ledger.read_text() != render_ledger():
        found[ledger] = render_ledger()
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
