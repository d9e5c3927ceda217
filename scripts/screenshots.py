"""Takes the pictures of the README: real phones in Chromium on a server of their own, each a small PNG in docs/images/.

    python -m scripts.screenshots     or: make screenshots

What is seen is played in web/test/browser/screenshots.ts; here the pictures get few colours, so that they stay small.
"""

import os
import sys
import tempfile
from pathlib import Path

from PIL import Image

from scripts import browsers, node

IMAGES = node.ROOT / "docs" / "images"
COLOURS = 255


def shrink(taken: Path, made: Path) -> int:
    """*taken* with at most COLOURS colours, as *made*; its size in bytes."""
    with Image.open(taken) as picture:
        few = picture.convert("RGB").quantize(COLOURS, Image.Quantize.MEDIANCUT, kmeans=3)
        few.save(made, optimize=True)
    return made.stat().st_size


def main() -> int:
    """Take them all; an exit code."""
    problem = browsers.provide(["TAUBE_CHROMIUM"])
    if problem:
        print(problem, file=sys.stderr)
        return 69
    with tempfile.TemporaryDirectory(prefix="taube-pictures-") as folder:
        os.environ["TAUBE_PICTURES"] = folder
        code = node.main(["screenshots"])
        if code != 0:
            return code
        IMAGES.mkdir(exist_ok=True)
        for taken in sorted(Path(folder).glob("*.png")):
            size_bytes = shrink(taken, IMAGES / taken.name)
            print(f"docs/images/{taken.name}: {size_bytes / 1000:.0f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
