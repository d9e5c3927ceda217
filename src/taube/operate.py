"""What `taube serve`, `admin` and `doctor` do with their options: name the folder, call the server, print its answer.

`cli.py` parsed the options and turns errors into sentences; the work is done in `server/app.py` and `server/admin.py`,
which are imported here only when one of these commands runs.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from taube.terminal import Terminal


def run(name: str, options: argparse.Namespace, terminal: Terminal) -> int:
    """Run `serve`, `admin` or `doctor`; returns the exit code."""
    if name == "serve":
        return _serve(options)
    return _doctor(options, terminal) if name == "doctor" else _admin(options, terminal)


def data_folder(options: argparse.Namespace) -> Path:
    """The server's folder: --data, else TAUBE_DATA, else the user's usual place."""
    if options.data is not None:
        return Path(options.data).expanduser()
    named = os.environ.get("TAUBE_DATA")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "taube" / "server"


def _serve(options: argparse.Namespace) -> int:
    from taube.server.app import serve
    from taube.server.config import ServeOptions

    given: dict[str, Any] = {
        "listen": options.listen,
        "url": options.url,
        "change_url": options.change_url,
        "ops": options.ops,
        "tls_cert": options.tls_cert,
        "tls_key": options.tls_key,
        "config": options.config,
    }
    return serve(ServeOptions(data=data_folder(options), **{k: v for k, v in given.items() if v is not None}))


def _admin(options: argparse.Namespace, terminal: Terminal) -> int:
    from taube.server import admin

    data = data_folder(options)
    if options.action == "invite":
        terminal.line(admin.invite(data, uses=options.uses, days=options.days))
    elif options.action == "revoke":
        admin.revoke(data, options.link)
    elif options.action == "remove":
        admin.remove(data, options.account)
    elif options.action == "rotate-keys":
        keys = admin.rotate_keys(data)
        terminal.hint(f"New addresses are sealed with a new key; {keys} keys open addresses. Make a new backup now.")
    elif options.action == "backup":
        _backup(data, options.file, terminal)
    elif options.action == "restore":
        _restore(data, options.file, terminal)
    else:
        for fact in admin.knows(data, options.account):
            terminal.json({"entry": fact.entry, "value": fact.value})
    return 0


def _backup(data: Path, file: Path, terminal: Terminal) -> None:
    from taube.server import backup

    with terminal.progress("writing and checking the backup"):
        size = backup.make(data, file)
    terminal.line(f"{file}: {size:,} bytes, checked")
    terminal.hint("It holds the server's keys: keep it as safe as the server.")


def _restore(data: Path, file: Path, terminal: Terminal) -> None:
    from taube.server import backup

    with terminal.progress("checking and restoring the backup"):
        restored = backup.restore(data, file)
    if not restored.is_verified:
        terminal.warn(
            f"{file} carries no digest, as older versions wrote it: it was restored, and is sound as a database, but"
            " whether each value in it is as it was when the backup was made could not be checked."
        )
    if restored.aside is not None:
        terminal.line(f"What was there before is in {restored.aside}: delete it when it is no longer needed.")
    terminal.hint("Start the server now: its clients find out by themselves what the backup does not know.")


def _doctor(options: argparse.Namespace, terminal: Terminal) -> int:
    from taube.server import doctor

    with terminal.progress("looking"):
        findings = doctor.examine(data_folder(options))
    for finding in findings:
        if options.json:
            terminal.json({"what": finding.what, "state": finding.state, "advice": finding.sentence})
        else:
            mark = {doctor.WELL: "ok  ", doctor.NOTE: "note", doctor.ACT: "ACT "}[finding.state]
            terminal.line(f"{mark}  {finding.what + ':':14} {finding.sentence}")
    return 1 if any(finding.state == doctor.ACT for finding in findings) else 0
