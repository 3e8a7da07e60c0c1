"""`python -m openrs.images.requirements` (`make requirements`): what each image installs, out of uv.lock, into images/requirements."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from openrs.errors import OpenRSError
from openrs.resources import shipped
from openrs.spec.load import PACKAGE

_EXPORT = "export --quiet --frozen --no-emit-project --no-header --no-annotate --format requirements-txt".split()
_CPU_NEEDS = ("nvidia-cuda-runtime-cu12", "nvidia-cuda-cupti-cu12")
"""Libraries of CUDA that torch cannot be imported without, whatever images/cpu_torch.py does to it."""


@dataclass(frozen=True)
class Wanted:
    """A part of uv.lock."""

    options: tuple[str, ...]
    """Of `uv export`."""
    only: str = ""
    """Names that are wanted, as a pattern; empty for all."""
    without: str = ""
    """Names that are not."""
    beside: str = ""
    """The file whose packages are there already."""


FILES = {
    "build": Wanted(("--only-group", "image-build")),
    "cli": Wanted(()),
    "smoke": Wanted(
        ("--extra", "train"), without=rf"triton|deepspeed|nvidia-(?!{'|'.join(n[7:] for n in _CPU_NEEDS)}$).*"
    ),
    "train": Wanted(
        ("--extra", "train", "--extra", "vllm", "--extra", "flash", "--extra", "wandb"), without="flash-attn"
    ),
    "flash": Wanted(("--extra", "flash"), only="flash-attn"),
    "eval": Wanted(("--extra", "train", "--extra", "vllm", "--extra", "eval"), beside="train"),
}
"""Name of a file in images/requirements → what stands there."""


def export(uv: str, root: Path) -> dict[str, str]:
    """Name → text of each file, for the uv.lock in `root`. Raises OpenRSError with uv's complaint."""
    found: dict[str, dict[str, str]] = {}
    for name, wanted in FILES.items():
        done = subprocess.run([uv, *_EXPORT, *wanted.options], cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OpenRSError(f"uv export failed: {' '.join(done.stderr.split())}")
        found[name] = {
            package: block
            for package, block in blocks(done.stdout).items()
            if re.fullmatch(wanted.only or ".*", package)
            and not re.fullmatch(wanted.without, package)
            and package not in found.get(wanted.beside, {})
        }
    return {name: "".join(packages.values()) for name, packages in found.items()}


def blocks(text: str) -> dict[str, str]:
    """Package → its lines in a requirements file, hashes and all."""
    found: dict[str, str] = {}
    for block in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
        if "==" in block:
            found[block.partition("==")[0]] = block
    return found


def versions(name: str) -> dict[str, str]:
    """Package → version that an image must hold; those that are for other systems than Linux on x86-64 are left out."""
    names = {"train": ("train", "flash"), "eval": ("train", "flash", "eval")}.get(name, (name,))
    found: dict[str, str] = {}
    for file in names:
        for package, block in blocks((shipped("images") / "requirements" / f"{file}.txt").read_text()).items():
            head = block.splitlines()[0].rstrip(" \\")
            version, _, marker = head.partition("==")[2].partition(" ; ")
            if not re.search(r"win32|darwin|pypy|emscripten|python_full_version < '3\.1[01]", marker):
                found[package] = version
    return found


def main() -> int:
    """Writes the files; returns the exit code."""
    root = PACKAGE.parent
    uv = os.environ.get("UV") or shutil.which("uv") or str(root / ".uv" / "bin" / "uv")
    for name, text in export(uv, root).items():
        (root / "images" / "requirements" / f"{name}.txt").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
