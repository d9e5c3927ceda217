"""The configuration file: what cannot be a setting is one sentence for the operator."""

from pathlib import Path

import pytest

from taube.server.config import OperatorError, read_config


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
