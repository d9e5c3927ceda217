"""The browsers that `make test` drives: found, else installed where that is ours to do, else asked for in one sentence.

    python -m scripts.browsers        only looks, and installs
    python -m scripts.browsers test   and runs the script `test` of web/package.json with both named in its environment

Whoever has one elsewhere names it in TAUBE_CHROMIUM or TAUBE_FIREFOX. Standard library only.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from scripts import node

BROWSERS = {
    "TAUBE_CHROMIUM": ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    "TAUBE_FIREFOX": ("firefox-esr", "firefox"),
}
APPLICATIONS = {
    "TAUBE_CHROMIUM": "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "TAUBE_FIREFOX": "/Applications/Firefox.app/Contents/MacOS/firefox",
}
PACKAGES = ("chromium", "firefox-esr", "fonts-noto-core", "fonts-noto-color-emoji")


def find(variable: str) -> str | None:
    """The browser that *variable* names, or the first that there is."""
    named = os.environ.get(variable)
    if named:
        return named if Path(named).exists() else None
    found = next((path for name in BROWSERS[variable] if (path := shutil.which(name))), None)
    return found or (APPLICATIONS[variable] if Path(APPLICATIONS[variable]).exists() else None)


def missing(variables: Iterable[str] = BROWSERS) -> list[str]:
    """Those of the variables whose browser is not there."""
    return [variable for variable in variables if find(variable) is None]


def install() -> None:
    """Let apt install them; its output goes to the terminal."""
    print("Installing Chromium and Firefox for the tests in browsers, with apt-get …", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", *arguments], env=environment, stdout=subprocess.DEVNULL)


def provide(variables: Iterable[str] = BROWSERS) -> str:
    """Find or install these browsers and name them in the environment; what to do where that fails, or ""."""
    variables = tuple(variables)
    for variable in variables:
        named = os.environ.get(variable)
        if named and not Path(named).exists():
            return f"{variable} names {named}, and nothing is there: name a browser, or unset it to have one found."
    if missing(variables) and os.geteuid() == 0 and Path("/etc/debian_version").exists() and shutil.which("apt-get"):
        install()
    lacking = missing(variables)
    if lacking:
        command = f"sudo apt-get install {' '.join(PACKAGES)}"
        if not shutil.which("apt-get"):
            command = f"Chromium and Firefox, or name them in {' and '.join(lacking)}"
        return (
            "The tests in browsers need Chromium and Firefox (make check does without). "
            f"Install them and run make again: {command}"
        )
    os.environ.update({variable: str(find(variable)) for variable in variables})
    return ""


def main(arguments: list[str]) -> int:
    """Find or install, then run what is asked for; an exit code."""
    problem = provide()
    if problem:
        print(problem, file=sys.stderr)
        return 69
    return node.main(arguments) if arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
