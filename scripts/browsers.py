"""The browsers that `make test` drives: found, else installed where that is ours to do, else asked for in one sentence.

    python -m scripts.browsers test   runs the script `test` of web/package.json with both named in its environment

Whoever has one elsewhere names it in TAUBE_CHROMIUM or TAUBE_FIREFOX. Standard library only.
"""

import os
import shutil
import subprocess
import sys
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


def missing() -> list[str]:
    """The variables whose browser is not there."""
    return [variable for variable in BROWSERS if find(variable) is None]


def install() -> None:
    """Let apt install them; its output goes to the terminal."""
    print("Installing Chromium and Firefox for the tests in browsers, with apt-get …", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", *arguments], env=environment, stdout=subprocess.DEVNULL)


def main(arguments: list[str]) -> int:
    """Find or install, then run; an exit code."""
    if missing() and os.geteuid() == 0 and Path("/etc/debian_version").exists() and shutil.which("apt-get"):
        install()
    lacking = missing()
    if lacking:
        command = f"sudo apt-get install {' '.join(PACKAGES)}"
        if not shutil.which("apt-get"):
            command = f"Chromium and Firefox, or name them in {' and '.join(lacking)}"
        print(
            f"The tests in browsers need Chromium and Firefox. Install them and run make again: {command}",
            file=sys.stderr,
        )
        return 69
    os.environ.update({variable: str(find(variable)) for variable in BROWSERS})
    return node.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
