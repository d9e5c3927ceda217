"""What `taube serve` and `taube admin` do with their options: names the folder, calls the server, prints its answer.

`cli.py` parsed the options and turns errors into sentences; the work is done in `server/app.py` and `server/admin.py`,
which are imported here only when one of these commands runs.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from taube.terminal import Terminal


def run(name: str, options: argparse.Namespace, terminal: Terminal) -> int:
    """Run `serve` or `admin`; returns the exit code."""
    return _serve(options) if name == "serve" else _admin(options, terminal)


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
    else:
        for fact in admin.knows(data, options.account):
            terminal.json({"entry": fact.entry, "value": fact.value})
    return 0
