"""`make images`: builds `cli` and `smoke` twice, compares the digests, pushes them to a registry on this machine, runs them by digest.

From the pinned base; where its registry cannot be asked, from a stand-in, and it says so.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from openrs.images.pins import pins
from tests.images.plugin import CA, PROGRAMS, missing, run
from tests.images.registry import Registry


def main() -> int:
    """Returns the exit code."""
    if (lack := missing()) is not None:
        print(f"no images can be built here; missing: {lack} (of {', '.join(PROGRAMS)})", file=sys.stderr)
        return 2
    options: list[str | Path] = ["--ca", CA] if CA.exists() else []
    if os.environ.get("BASE") == "stand-in" or run("images", "list", "--check").returncode:
        print(
            f"no registry gives {pins().base['debian'].reference}: the base is a stand-in of Debian's packages of today"
        )
        options.append("--stand-in")
    out = Path("build/images").absolute()
    with tempfile.TemporaryDirectory(prefix="registry-") as directory, Registry(Path(directory)) as registry:
        for name in ("cli", "smoke"):
            print(f"{name}: building twice", flush=True)
            push = f"{registry.address}/openrs/{name}:built"
            words = ("--twice", *options, "--out", out, "--push", push, "--insecure", "--json")
            done = run("images", "build", name, *words, stderr=None)
            if done.returncode:
                return 1
            said = json.loads(done.stdout)
            print(f"{name}: {said['digest']}, the same twice, {said['bytes'] / 1e6:.0f} MB", flush=True)
            checked = run("images", "verify", said["pushed"], "--insecure", "--out", out)
            print(checked.stdout, checked.stderr, sep="", flush=True)
            if checked.returncode:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
