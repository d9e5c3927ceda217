"""The configuration file: what cannot be a setting is one sentence for the operator."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest

from scripts import generate_docs
from taube.server.config import (
    LEASTS,
    MAY_BE_ZERO,
    MOST_S,
    MOSTS,
    OperatorError,
    ServerConfig,
    _number,
    is_time,
    read_config,
)


@pytest.mark.parametrize(
    "value", ["inf", "nan", "-inf", "1e400", "1" + "0" * 400, "-1", "true", '"3"', "[3]", "1979-05-27"]
)
@pytest.mark.parametrize("name", ["connections", "head_timeout_s"])
def test_a_value_that_is_no_number_of_a_sensible_size_is_refused(tmp_path: Path, name: str, value: str) -> None:
    file = tmp_path / "taube.toml"
    file.write_text(f"[listener]\n{name} = {value}\n")
    with pytest.raises(OperatorError, match=f"listener.{name}” has to be a number"):
        read_config(file)


@pytest.mark.parametrize("content", [b"a = " + b"[" * 5_000, b"\xff", b"a", b"a = " + b"9" * 5_000])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "taube.toml"
    file.write_bytes(content)
    with pytest.raises(OperatorError, match="cannot be read as TOML"):
        read_config(file)


def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot be read \(file name too long\)\.$"):
        read_config(tmp_path / ("a" * 300))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("blobs.days", "46"), ("blobs.days", "1"), ("push.at_once", "0"), ("sqlite.backlog_jobs", "0"),
        ("limits.keys", "0"), ("sqlite.busy_timeout_ms", "9_000_000_000"), ("connection.hello_timeout_s", "0.0"),
        ("listener.head_bytes", "0.9"), ("listener.head_bytes", "1"), ("unused_months", "1.5"),
        ("mailboxes.capacity_bytes", "1000"), ("listener.frame_buffer_bytes", "99_999_999"),
        ("connection.waiting_bytes", "9"),
        ("drain.spread_ms", "0"), ("drain.spread_ms", "199"),
        ("sqlite.foreign_check_s", "1e10"), ("sqlite.foreign_check_s", str(2**53)), ("sqlite.delete_pause_s", "1e10"),
        ("drain.flush_s", "1e10"), ("mailboxes.storage_retry_ms", str(2**53)), ("push.tries", "2000"),
    ],
)  # fmt: skip
def test_a_number_with_which_no_server_can_run_is_refused(tmp_path: Path, name: str, value: str) -> None:
    group, _, field = name.partition(".")
    (tmp_path / "c.toml").write_text(f"[{group}]\n{field} = {value}\n" if field else f"{name} = {value}\n")
    with pytest.raises(OperatorError, match=f"“{name}” has to be") as refused:
        read_config(tmp_path / "c.toml")
    assert refused.value.sentence.endswith(".")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("[connection]\ndevice_ping_s = 400", ("connection.device_ping_s", "connection.device_idle_s")),
        ("[connection]\ndevice_idle_s = 100", ("connection.device_ping_s", "connection.device_idle_s")),
        ("[blobs]\nblob_bytes = 2_000\ntotal_bytes = 1_000", ("blobs.blob_bytes", "blobs.total_bytes")),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_both_names(
    tmp_path: Path, content: str, names: tuple[str, str]
) -> None:
    file = tmp_path / "taube.toml"
    file.write_text(content)
    with pytest.raises(OperatorError) as refused:
        read_config(file)
    assert all(f"“{name}”" in refused.value.sentence for name in names)


@pytest.mark.parametrize(
    "content",
    ["[connection]\ndevice_ping_s = 400\ndevice_idle_s = 500", "[blobs]\ntotal_bytes = 0", "[blobs]\nblob_bytes = 1"],
)
def test_settings_that_go_together_are_taken(tmp_path: Path, content: str) -> None:
    (tmp_path / "taube.toml").write_text(content)
    assert read_config(tmp_path / "taube.toml") != ServerConfig()


@pytest.mark.parametrize(
    ("content", "meant"),
    [
        ("[connection]\nhello_timout_s = 3", "connection.hello_timeout_s"),
        ("[conection]\ndevice_ping_s = 3", "connection"),
        ("blob_bytes = 3", "blobs.blob_bytes"),
        ("unused_month = 3", "unused_months"),
        ("[blobs]\nunused_months = 3", "unused_months"),
    ],
)
def test_a_mistyped_name_is_told_the_one_that_may_be_meant(tmp_path: Path, content: str, meant: str) -> None:
    (tmp_path / "taube.toml").write_text(content)
    with pytest.raises(OperatorError, match=f"did you mean “{meant}”"):
        read_config(tmp_path / "taube.toml")


@pytest.mark.parametrize("content", ["zzz = 3", "[limits]\nlimits = 3"])
def test_a_name_like_no_other_is_told_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "taube.toml").write_text(content)
    with pytest.raises(OperatorError, match="there is no setting") as refused:
        read_config(tmp_path / "taube.toml")
    assert "did you mean “limits.limits”" not in refused.value.sentence


def test_what_is_no_file_is_told_without_the_words_of_the_system(tmp_path: Path) -> None:
    below = tmp_path / "file" / "taube.toml"
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path, "is not a file"),
        (tmp_path / "none", "There is no file"),
        (below, "There is no file"),
    ):
        with pytest.raises(OperatorError, match=why) as refused:
            read_config(path)
        assert "Errno" not in refused.value.sentence


def test_every_default_is_within_its_bounds(tmp_path: Path) -> None:
    for slice_name, config in [("", ServerConfig()), *vars_of(ServerConfig())]:
        for field in dataclasses.fields(config):
            default = getattr(config, field.name)
            if isinstance(default, int | float):
                name = f"{slice_name}{field.name}"
                assert _number(default, default, name, tmp_path) == default, name
    known = {f"{name}{field.name}" for name, config in [("", ServerConfig()), *vars_of(ServerConfig())]
             for field in dataclasses.fields(config)}  # fmt: skip
    assert {*MOSTS, *LEASTS, *MAY_BE_ZERO} <= known


def test_the_longest_times_are_ones_that_a_thread_can_wait(tmp_path: Path) -> None:
    for name, config in vars_of(ServerConfig()):
        for each in dataclasses.fields(config):
            if is_time(each.name):
                (tmp_path / "taube.toml").write_text(f"[{name[:-1]}]\n{each.name} = {MOST_S + 1}\n")
                with pytest.raises(OperatorError, match="has to be between"):
                    read_config(tmp_path / "taube.toml")
    (tmp_path / "taube.toml").write_text(
        f"[drain]\ngoodbye_s = {MOST_S}\nflush_s = {MOST_S}\n[sqlite]\nforeign_check_s = {MOST_S}\n"
    )
    longest = read_config(tmp_path / "taube.toml")
    assert max(longest.drain.most_s, longest.sqlite.foreign_check_s) < threading.TIMEOUT_MAX
    assert 2.0 ** MOSTS["push.tries"] > 0


def test_of_every_setting_it_is_said_whether_it_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert generate_docs.set_limits()
    monkeypatch.delitem(generate_docs.SET_LIMITS, "blobs.transfers")
    with pytest.raises(ValueError, match="transfers"):
        generate_docs.set_limits()


def vars_of(config: ServerConfig) -> list[tuple[str, Any]]:
    slices = [(each.name, getattr(config, each.name)) for each in dataclasses.fields(config)]
    return [(f"{name}.", each) for name, each in slices if dataclasses.is_dataclass(each)]
