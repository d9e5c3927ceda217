"""Set-up: the locks are complete and name no place, and what goes wrong is one sentence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from scripts import browsers, node, setup

ROOT = Path(__file__).resolve().parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_package_of_a_lock_is_pinned_and_has_hashes(lock: Path) -> None:
    entries = re.split(r"\n(?=\S)", lock.read_text().replace("\\\n", " ").strip())
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==[\w.]+ ", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_what_the_package_declares_is_locked() -> None:
    declared = re.findall(r'"([a-z0-9-]+)"', re.findall(r"dependencies = \[(.*?)\]", project())[0])
    declared += re.findall(r'"([a-z0-9-]+)"', re.findall(r"server = \[(.*?)\]", project())[0])
    locked = {line.partition("==")[0] for line in (ROOT / "requirements" / "run.txt").read_text().splitlines()}
    assert len(declared) > 8
    assert set(declared) - locked == set()


def project() -> str:
    return (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "WARNING: Retrying … NewConnectionError('…')\nERROR: No matching distribution found for x",
            "reaches the internet",
        ),
        ("ERROR: No matching distribution found for x==1", "no ready-made build"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "do not use it"),
        ("ERROR: something new", "something new"),
    ],
)
def test_what_pip_says_becomes_one_sentence(said: str, words: str) -> None:
    sentence = setup.explain(said)
    assert words in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Collecting aiofastnet==1.2.0 (from -r requirements/run.txt (line 1))\n", "aiofastnet"),
        ("Requirement already satisfied: click==8.5.1 in ./.venv/lib (from -r x (line 9)) (8.5.1)\n", "click"),
    ],
)
def test_progress_names_the_package(line: str, name: str) -> None:
    assert setup.name_in(line) == name


def test_set_up_is_done_again_when_a_lock_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = setup.fingerprint("run")
    assert before == setup.fingerprint("run")
    assert before != setup.fingerprint("dev")
    monkeypatch.setattr(setup, "read", lambda name: "other==1 --hash=sha256:0")
    assert setup.fingerprint("run") != before


def test_a_python_that_was_named_and_is_none_ends_set_up() -> None:
    environment = os.environ | {"PYTHON": "/nowhere/python"}
    done = subprocess.run(["sh", "scripts/setup.sh", "run"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (69, "")
    assert "/nowhere/python" in done.stderr and done.stderr.count("\n") == 1


def test_the_makefile_explains_every_target_that_a_person_types() -> None:
    text = (ROOT / "Makefile").read_text()
    explained = set(re.findall(r"^# make ([a-z-]+)", text, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    assert targets - explained == {"help", "dev", "lint", "browsers"}
    assert explained <= targets


@pytest.mark.parametrize("lock", ["web/package-lock.json", "tests/interop/package-lock.json"])
def test_a_lock_of_npm_has_hashes_and_names_no_place(lock: str) -> None:
    packages = json.loads((ROOT / lock).read_text())["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []


def test_the_app_is_built_again_when_a_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.tsx").write_text("1")
    monkeypatch.setattr(node, "WEB", tmp_path)
    before = node.sources()
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "x.js").write_text("1")
    assert node.sources() == before
    (tmp_path / "src" / "main.tsx").write_text("2")
    assert node.sources() != before


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("npm error code ENOTFOUND", "reaches the internet"),
        ("npm error code ENOSPC", "disk is full"),
        ("npm error code EINTEGRITY", "do not use it"),
    ],
)
def test_what_npm_says_becomes_one_sentence(said: str, words: str) -> None:
    sentence = node.explain(said, "the phone app")
    assert words in sentence and "\n" not in sentence


def test_without_browsers_one_sentence_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(browsers, "find", lambda variable: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert browsers.main(["test:browser"]) == 69
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Chromium" in said and "install" in said


def test_a_browser_that_was_named_and_is_none_is_not_replaced_by_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TAUBE_CHROMIUM", "/nowhere/chromium")
    monkeypatch.setattr(browsers, "install", lambda: pytest.fail("nothing is installed then"))
    assert browsers.main(["test:browser"]) == 69
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "/nowhere/chromium" in said


def test_a_browser_that_was_named_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAUBE_CHROMIUM", str(tmp_path))
    assert browsers.find("TAUBE_CHROMIUM") == str(tmp_path)
    monkeypatch.setenv("TAUBE_CHROMIUM", str(tmp_path / "none"))
    assert browsers.find("TAUBE_CHROMIUM") is None


def test_the_package_carries_the_app_that_was_built(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    names = {name.removeprefix("taube/web/") for name in ZipFile(wheel).namelist() if name.startswith("taube/web/")}
    assert names == {path.relative_to(node.APP).as_posix() for path in node.APP.rglob("*") if path.is_file()}
    assert "index.html" in names
