"""The ledger is whole: every column, metric and log field has its entry, and every entry is used."""

import json
import re
import sqlite3
from pathlib import Path

import pytest

from taube.server import ledger
from taube.server.ledger import LEDGER, Entry, render_ledger
from taube.server.ops import observe, waking, workers
from taube.server.stores import objects
from taube.server.stores.schema import SCHEMA
from taube.server.stores.sqlite import SqliteSettings, prepare, transaction
from taube.wire.messages import GateName
from tests.canaries import scan_for
from tests.spec import spec

ROOT = Path(__file__).resolve().parent.parent
MEMORY_ONLY = {ledger.SOURCE, ledger.BUDGET, ledger.LIVE_CONNECTION, ledger.WAKING}
OF_NOBODY = {ledger.GATE, ledger.BLOB, ledger.INVITATION}
"""Stored about a person, but of whom cannot be told."""


@spec("DEL-26")
def test_every_column_of_the_real_schema_has_its_entry(tmp_path: Path) -> None:
    path = tmp_path / "taube.db"
    prepare(path, SqliteSettings())
    with sqlite3.connect(path) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        real = {(table, row[1]) for table in tables for row in db.execute(f"PRAGMA table_info({table})")}
    named = {(table.name, column.name): column.entry for table in SCHEMA for column in table.columns}
    # SQLite's own table says how many devices there ever were, a fact about nobody.
    assert real - {("sqlite_sequence", "name"), ("sqlite_sequence", "seq")} == set(named)
    assert set(named.values()) <= set(LEDGER.values())


@spec("DEL-26")
def test_every_metric_and_log_field_has_its_entry_and_no_label_is_free() -> None:
    for metric in (*observe.METRICS, *workers.METRICS, *waking.METRICS):
        assert metric.entry in LEDGER.values(), metric.name
        assert not metric.entry.about_a_person, metric.name
        assert len(metric.reasons) <= 12, metric.name
    for field, entry in observe.LOG_FIELDS.items():
        assert isinstance(entry, Entry), field
        assert not entry.about_a_person, field


def test_every_entry_is_used() -> None:
    stored = {column.entry for table in SCHEMA for column in table.columns} | set(objects.FIELDS.values())
    assert set(LEDGER.values()) == stored | MEMORY_ONLY | {ledger.OPERATION}
    assert all(entry.where.startswith("memory") for entry in MEMORY_ONLY)


def test_the_app_names_each_entry_about_a_person_and_those_that_no_answer_tells() -> None:
    screen = (ROOT / "web" / "src" / "ui" / "settings.tsx").read_text()

    def listed(name: str) -> list[str]:
        [inside] = re.findall(rf"^const {name} = \[(.*?)\];", screen, re.DOTALL | re.MULTILINE)
        return sorted(re.findall(r'"([^"]*)"', inside))

    assert listed("IN_MEMORY") == sorted(entry.name for entry in MEMORY_ONLY)
    assert listed("OF_NOBODY") == sorted(entry.name for entry in OF_NOBODY)
    words = json.loads((ROOT / "web" / "src" / "i18n" / "en.json").read_text())
    keys = {f"knows.entry.{entry.name.replace(' ', '_')}" for entry in LEDGER.values() if entry.about_a_person}
    assert {key for key in words if key.startswith("knows.entry.")} == keys | {f"{key}.why" for key in keys}


def test_the_document_is_the_one_that_the_code_makes() -> None:
    assert (ROOT / "docs" / "privacy-ledger.md").read_text() == render_ledger(), "run `make docs`"


def test_a_canary_is_found_wherever_and_however_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "log").write_text('{"name": "Zw\\u00f6lfe"}\nphone 2b34393137360a')
    with transaction(tmp_path / "taube.db") as tables:
        tables.claim_gate(GateName(bytes(32)), b"text: Feuersalamander", 1)
    canaries = {"name": "Zwölfe", "text": "Feuersalamander", "number": "+49176\n", "absent": "Mauersegler"}
    assert {name for name, _ in scan_for(canaries, tmp_path)} == {"name", "text", "number"}


@pytest.mark.parametrize("entry", LEDGER.values(), ids=lambda entry: entry.name)
def test_an_entry_says_what_where_and_how_long(entry: Entry) -> None:
    assert entry.fact
    assert entry.where in {"directory", "mailbox", "gates", "blobs", "memory only", "server", "metrics, logs"}
    assert entry.how_long
    assert "|" not in entry.fact + entry.how_long
