"""The documents tell the truth: rules have tests, tables are current, snippets run, links lead somewhere."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import report
from scripts import generate_docs, generate_vectors

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "changes").glob("*.md")])
RULE = re.compile(r"\*\*([A-Z]{3}-\d\d+)\*\*")
CARRIED = re.compile(r"\bspec\(([^)]*)\)")
IMAGE = re.compile(r"<img src=\"([^\"]+)\"")
IMAGE_BYTES_MOST = 120_000
SNIPPET = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)")


def committed_text_files() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if names.returncode != 0:
        pytest.skip("not a git checkout")
    return [
        path
        for name in names.stdout.split("\0")
        if (path := ROOT / name).is_file() and path.suffix not in {".wasm", ".png", ".ico"}
    ]


def rules() -> dict[str, list[str]]:
    """Every rule and the documents that state it."""
    found: dict[str, list[str]] = {}
    for document in (ROOT / "docs" / "protocol").glob("*.md"):
        for rule in RULE.findall(document.read_text()):
            found.setdefault(rule, []).append(document.name)
    return found


def carried() -> set[str]:
    """Every rule that a test carries."""
    found: set[str] = set()
    for test in (ROOT / "tests").rglob("*.py"):
        for arguments in CARRIED.findall(test.read_text()):
            found |= set(re.findall(r"\"([A-Z]{3}-\d\d+)\"", arguments))
    for source in (ROOT / "core").rglob("*.rs"):
        found |= set(re.findall(r"spec: ([A-Z]{3}-\d\d+)", source.read_text()))
    return found


def test_a_rule_is_stated_once() -> None:
    assert {rule: where for rule, where in rules().items() if len(where) > 1} == {}


def test_every_rule_is_carried_by_a_test() -> None:
    assert sorted(set(rules()) - carried()) == []


def test_every_rule_that_a_test_carries_is_stated() -> None:
    assert sorted(carried() - set(rules())) == []


def test_generated_tables_are_current() -> None:
    assert [path.name for path in generate_docs.outdated()] == [], "run `make docs`"


def test_the_report_of_the_bench_shows_the_results_that_are_committed() -> None:
    results = json.loads((ROOT / "bench" / "results.json").read_text())
    assert (ROOT / "bench" / "README.md").read_text() == report.readme(results), "python -m bench writes both"


def test_the_readme_shows_every_figure_of_the_bench_with_its_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for figure in json.loads((ROOT / "bench" / "results.json").read_text())["figures"]:
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| {figure['what']} |")]
        assert f"| {figure['value']:.3g} {figure['unit']}" in row and f"`{figure['command']}`" in row


def test_vectors_are_current() -> None:
    assert generate_vectors.main(["--check"]) == 0, "run `make docs`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    targets = LINK.findall(text) + IMAGE.findall(text)
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_pictures_are_small_and_the_readme_shows_some() -> None:
    pictures = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "docs" / "images").glob("*")}
    assert [name for name, path in pictures.items() if path.stat().st_size > IMAGE_BYTES_MOST] == []
    shown = IMAGE.findall((ROOT / "README.md").read_text())
    assert len(shown) > 2 and set(shown) <= set(pictures), "make screenshots"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_snippets_are_python_and_import_what_there_is(document: Path) -> None:
    for language, code in SNIPPET.findall(document.read_text()):
        if language != "python":
            continue
        tree = compile(code, document.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("taube"):
                names = ", ".join(alias.name for alias in node.names)
                subprocess.run([sys.executable, "-c", f"from {node.module} import {names}"], check=True)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_snippets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for language, code in SNIPPET.findall(document.read_text()):
        if language not in ("console", "sh"):
            continue
        for line in code.replace("\\\n", " ").splitlines():
            line = line.removeprefix("$ ").strip()
            if line.startswith("make "):
                assert line.split()[1] in targets, f"{document.name}: {line}"
            elif re.match(r"(\.venv/bin/)?taube [a-z]", line):
                parse_options(line)


def test_the_settings_shown_can_be_set(tmp_path: Path) -> None:
    from taube.server.config import ServerConfig, read_config

    blocks = [
        code for language, code in SNIPPET.findall((ROOT / "docs/operating.md").read_text()) if language == "toml"
    ]
    (tmp_path / "taube.toml").write_text("\n".join(blocks))
    assert blocks
    assert read_config(tmp_path / "taube.toml") != ServerConfig()


def parse_options(line: str) -> None:
    """Let the command line's own parser read *line*."""
    import shlex

    from taube import cli

    words = shlex.split(line, comments=True)[1:]
    for stop in ("|", "&", ">", "&&", "<"):
        words = words[: words.index(stop)] if stop in words else words
    cli.parse(words)


def test_documents_and_rules_that_the_code_refers_to_exist() -> None:
    known, found = set(rules()), []
    for folder in ("src", "tests", "scripts", "core/src"):
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.rs")]:
            text = path.read_text()
            names = re.findall(r"\bdocs/[\w/-]+\.md\b|\b[A-Z]{6,}\.md\b", text)
            found += [f"{path.name}: {name}" for name in names if not (ROOT / name).exists()]
            cited = re.findall(r"\b(?:CON|DEL|GAT|IDN|CNT|GRP|ENV)-\d\d\b", text) if folder == "src" else []
            found += [f"{path.name}: {rule}" for rule in cited if rule not in known]
    assert found == []


FORBIDDEN = [
    *("pypi" + ".org", "pythonhosted" + ".org", "registry." + "npmjs", "static.crates" + ".io", "index.crates" + ".io"),
    *("--index" + "-url", "find" + "-links", "/" + "work/", "/" + "tmp/bash"),
]


def test_no_file_names_a_package_registry_or_a_folder_of_one_machine() -> None:
    found = []
    for path in committed_text_files():
        text = path.read_text(errors="replace")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert found == []


def test_every_dependency_has_its_decision() -> None:
    text = "\n".join(path.read_text().lower() for path in (ROOT / "docs" / "decisions").glob("*.md"))
    for lock in ("run.in", "dev.in", "node.in"):
        for line in (ROOT / "requirements" / lock).read_text().splitlines():
            name = re.match(r"[a-z0-9-]+", line)
            if name:
                assert name[0] in text, f"{name[0]} has no decision"
    declared = json.loads((ROOT / "web/package.json").read_text())
    for name in declared["dependencies"] | declared["devDependencies"]:
        assert name in text, f"{name} has no decision"
