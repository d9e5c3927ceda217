"""The files under deploy/ fit the program: options and files that there are, and a unit that systemd accepts."""

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from taube import cli
from taube.testing import Server

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "deploy" / "taube.service"
CONTAINER = (ROOT / "deploy" / "Containerfile").read_text()


def test_the_unit_starts_a_server_as_it_can_be_started() -> None:
    unit = UNIT.read_text()
    [line] = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    [more] = re.findall(r"^# +TAUBE_OPTIONS=(.*)$", unit, re.MULTILINE)
    for given in ("", more):
        options = cli.parse(line.replace("$TAUBE_OPTIONS", given).split()[1:])
        assert options.command == "serve" and str(options.data) == "/var/lib/taube" and options.tls_key is not None
        assert (options.ops is not None and options.config is not None) == bool(given)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_accepts_the_unit_and_calls_it_well_confined(tmp_path: Path) -> None:
    unit = tmp_path / "taube.service"
    text = UNIT.read_text().replace("/opt/taube/.venv/bin/taube", sys.executable)
    unit.write_text(re.sub(r"^(User|Group)=.*\n", "", text, flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "taube" in line]
    assert ours == []
    command = ["systemd-analyze", "security", "--offline=yes", "--json=short", UNIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode == 0 and done.stdout.startswith("["):
        exposure = sum(float(each["exposure"] or 0) for each in json.loads(done.stdout))
        assert exposure < 30, done.stdout


def test_a_supervisor_is_told_when_the_server_accepts_and_when_it_ends(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(30)
        server = Server(tmp_path, tls=False)
        server.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        server.start()
        try:
            assert told.recv(100) == b"READY=1"
        finally:
            assert server.stop() == 0
        assert told.recv(100) == b"STOPPING=1"


def test_the_container_is_built_from_files_that_there_are_and_starts_what_can_be_started() -> None:
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINER, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    [entry] = re.findall(r"^ENTRYPOINT (\[.*\])$", CONTAINER, re.MULTILINE)
    assert cli.parse(json.loads(entry)[1:]).command == "serve"
    shown = re.search(r"taube (--url .*)$", CONTAINER, re.MULTILINE)
    assert shown is not None
    more = re.search(r"such as (--ops .*);", CONTAINER)
    assert more is not None
    options = cli.parse(["serve", *shown[1].split(), *more[1].split()])
    assert options.tls_cert is not None and options.ops is not None and options.config is not None
    [check] = re.findall(r"CMD (\[.*\])$", CONTAINER, re.MULTILINE)
    compile(json.loads(check)[2], "healthcheck", "exec")
