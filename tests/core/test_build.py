"""The committed binary is what the committed sources build: hashes always, a rebuild where the toolchain is."""

import gzip
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import wasmtime

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "src" / "taube" / "client"
BUILD = ROOT / "core" / "build.sh"
MAX_PACKED_BYTES = 500_000


def test_the_binary_has_its_hash() -> None:
    wasm = (CLIENT / "taube_core.wasm").read_bytes()
    assert hashlib.sha256(wasm).hexdigest() == (CLIENT / "taube_core.wasm.sha256").read_text().strip()


def test_the_binary_is_of_these_sources() -> None:
    sources = subprocess.run([str(BUILD), "--sources"], capture_output=True, text=True, check=True).stdout.strip()
    committed = (CLIENT / "taube_core.sources.sha256").read_text().strip()
    assert sources == committed, "the sources of the core changed: run core/build.sh and commit what it writes"


def test_the_binary_is_small() -> None:
    packed = gzip.compress((CLIENT / "taube_core.wasm").read_bytes(), 9)
    assert len(packed) <= MAX_PACKED_BYTES


def test_the_binary_asks_its_host_for_randomness_only() -> None:
    module = wasmtime.Module.from_file(wasmtime.Engine(), str(CLIENT / "taube_core.wasm"))
    allowed = {"random_get", "fd_write", "environ_get", "environ_sizes_get", "proc_exit"}
    assert {imported.name for imported in module.imports} <= allowed
    assert {imported.module for imported in module.imports} == {"wasi_snapshot_preview1"}


def test_the_binary_names_no_place_of_this_machine() -> None:
    wasm = (CLIENT / "taube_core.wasm").read_bytes()
    for place in (str(ROOT), str(Path.home()), "/home/", "/root/", ".cargo/registry"):
        assert place.encode() not in wasm, place


def test_without_the_toolchain_the_build_says_what_is_missing(tmp_path: Path) -> None:
    for tool in ("sh", "dirname", "sed", "cat", "sha256sum", "cut", "printf"):
        found = shutil.which(tool)
        if found:
            (tmp_path / tool).symlink_to(found)
    done = subprocess.run([str(BUILD), "--check"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 69
    assert "rustup toolchain install 1.95.0" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_another_folder_builds_the_same_bytes(tmp_path: Path) -> None:
    if not shutil.which("rustup"):
        pytest.skip("needs rustup")
    folder = tmp_path / "another" / "core"
    shutil.copytree(ROOT / "core", folder, ignore=shutil.ignore_patterns("target"))
    client = tmp_path / "another" / "src" / "taube" / "client"
    client.mkdir(parents=True)
    for name in ("taube_core.wasm.sha256",):
        shutil.copy(CLIENT / name, client / name)
    environment = {key: value for key, value in os.environ.items() if key != "CARGO_TARGET_DIR"}
    done = subprocess.run([str(folder / "build.sh"), "--check"], env=environment, capture_output=True, text=True)
    if done.returncode == 69:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr[-2000:]
