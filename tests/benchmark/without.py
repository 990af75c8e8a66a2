"""The product without its early routes, to measure it against: a copy in which they never begin."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import images

if TYPE_CHECKING:
    from tests.lab.engine import Engine

IMAGE = "wgroutemgr:lab-off"
MODULE = Path("lib/early/service.py")
BEGINS = "def lead_to("
NEVER = "\n\nEarlyRoutes.lead_to = lambda *_: None  # type: ignore[method-assign, assignment]\n"
DOCKERFILE = f"""
FROM {images.PRODUCT}
COPY lib/ /opt/wgroutemgr/lib/
RUN cd /opt/wgroutemgr && python3 -m compileall -q . && python3 -c 'import wgroutemgr'
"""


def product(engine: Engine, source: Path) -> str:
    """Build the image of that tree without early routes, over its image that is there already."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy(source, tree)
        (tree / "Dockerfile").write_text(DOCKERFILE, encoding="utf-8")
        engine.docker("build", "--quiet", "--force-rm", "--tag", IMAGE, folder)
    return IMAGE


def copy(source: Path, tree: Path) -> None:
    """Copy what is the program's own, so that no route is early."""
    shutil.copytree(source / "lib", tree / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    module = tree / MODULE
    text = module.read_text(encoding="utf-8")
    assert text.count(BEGINS) == 1, f"{BEGINS!r} does not begin early routes any more"
    module.write_text(text + NEVER, encoding="utf-8")
