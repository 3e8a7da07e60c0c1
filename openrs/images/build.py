"""Building: images/Containerfile, the pinned bases, and what the image says of itself, given to whichever builder is there."""

from __future__ import annotations

import calendar
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from openrs import __version__
from openrs.errors import BadInput
from openrs.images import layout
from openrs.images.pins import pins
from openrs.images.requirements import versions
from openrs.images.tools import call, need
from openrs.spec.load import PACKAGE

IMAGES = {
    "cli": "renders, submits, watches and reports; no torch",
    "smoke": "trains and evaluates `smoke` on a CPU; what the test beds run",
    "train": "trains on GPUs: torch, TRL, DeepSpeed, vLLM, flash-attn",
    "eval": "train and lighteval",
}
"""Name, which is its last stage in images/Containerfile → what it is for."""

SHOWN = ("torch", "transformers", "deepspeed", "vllm", "flash-attn", "lighteval")
"""Packages whose version is a label, `dev.openrs.<package>`."""

STAND_IN = "localhost/openrs-stand-in:bookworm-slim"
SOURCE = "https://arxiv.org/abs/2503.16219"


@dataclass(frozen=True)
class Recipe:
    """How an image is to be built."""

    name: str
    tool: str
    """buildah, podman or docker."""
    stand_in: bool = False
    """From Debian's packages of today, in place of the pinned base."""
    fresh: bool = False
    """Without layers that earlier builds left."""
    ca: Path | None = None
    """Certificates for the steps that reach a network."""
    cache: str | None = None
    """Repository in a registry that holds layers."""
    compress: bool = True
    """What is pushed is compressed; what stays on this machine is written and read faster without, under another digest."""

    @property
    def tag(self) -> str:
        """Name in the builder's own storage."""
        return f"localhost/openrs/{self.name}:built"


def uv_lock() -> str:
    """sha256 of the checkout's uv.lock. Raises BadInput where this is no checkout."""
    lock = PACKAGE.parent / "uv.lock"
    if not lock.is_file() or not (PACKAGE.parent / "images" / "Containerfile").is_file():
        raise BadInput(
            "images are built, pinned and verified from a checkout of openrs, with its uv.lock; this is an installed package"
        )
    return f"sha256:{hashlib.sha256(lock.read_bytes()).hexdigest()}"


def timestamp() -> int:
    """Seconds since the epoch of every file in an image: the snapshot's, so that a layer is the same whenever it is built."""
    return calendar.timegm(time.strptime(pins().snapshot, "%Y%m%dT%H%M%SZ"))


def revision() -> str:
    """Commit of the checkout, with `-dirty` where files differ from it; `unknown` outside of git."""
    program = shutil.which("git")
    if program is None:
        return "unknown"
    git = [program, "-C", str(PACKAGE.parent)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return "unknown"
    changed = subprocess.run(
        [*git, "status", "--porcelain"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return head.stdout.strip() + ("-dirty" if changed else "")


def facts(recipe: Recipe) -> dict[str, str]:
    """What stands in the image's `image.json`, for the worker that runs in it (openrs/runs/provenance.py)."""
    return {"image": recipe.name, "openrs": __version__, "revision": revision(), "uv_lock": uv_lock()}


def labels(recipe: Recipe) -> dict[str, str]:
    """OCI annotations ("Pre-Defined Annotation Keys") and ours."""
    base = pins().base["debian"]
    found = versions(recipe.name)
    return {
        layout.TITLE: f"openrs/{recipe.name}",
        layout.SOURCE: SOURCE,
        layout.VERSION: __version__,
        layout.REVISION: revision(),
        layout.BASE: layout.STAND_IN if recipe.stand_in else base.digest,
        layout.UV_LOCK: uv_lock(),
        **{f"dev.openrs.{package}": found[package] for package in SHOWN if package in found},
    }


def arguments(recipe: Recipe) -> dict[str, str]:
    """Arguments of images/Containerfile."""
    base = pins().base
    return {
        "DEBIAN": STAND_IN if recipe.stand_in else base["debian"].reference,
        "CUDA": STAND_IN if recipe.stand_in else base["cuda"].reference,
        "SNAPSHOT": "" if recipe.stand_in else pins().snapshot,
        "TIMESTAMP": str(timestamp()),
        "FACTS": json.dumps(facts(recipe)),
    }


def containerfile(recipe: Recipe) -> str:
    """images/Containerfile with the image's labels, in its last stage and no other.

    `--label` would put them on every stage: what a build of another commit or image has left in the builder's cache would
    be told apart by them, and two builds of the same code would differ.
    """
    text = (PACKAGE.parent / "images" / "Containerfile").read_text()
    head, stage, rest = re.split(rf"(^FROM \S+ AS {recipe.name}$)", text, maxsplit=1, flags=re.MULTILINE)
    before, entry, after = rest.partition("\nENTRYPOINT ")
    lines = "".join(f"\nLABEL {json.dumps(name)}={json.dumps(value)}" for name, value in labels(recipe).items())
    return f"{head}{stage}{before}{lines}{entry}{after}"


def command(recipe: Recipe, file: Path, target: Path) -> list[list[str]]:
    """The builder's command lines for the Containerfile `file`, the last of which leaves the image's layout in `target`."""
    options = ["--target", recipe.name, "--file", str(file)]
    for name, value in arguments(recipe).items():
        options += ["--build-arg", f"{name}={value}"]
    options += ["--secret", f"id=ca,src={recipe.ca}"] if recipe.ca else []
    options += ["--no-cache"] if recipe.fresh else []
    context = str(PACKAGE.parent)
    if recipe.tool == "docker":
        where = f"type=oci,dest={target},tar=false,rewrite-timestamp=true"
        where += "" if recipe.compress else ",compression=uncompressed,force-compression=true"
        options += ["--build-arg", f"SOURCE_DATE_EPOCH={timestamp()}", "--provenance=false", "--output", where]
        if recipe.cache:
            cache = f"type=registry,ref={recipe.cache}"
            options += [f"--cache-from={cache}", f"--cache-to={cache},mode=max"]
        return [["docker", "buildx", "build", *options, context]]
    options += ["--format", "oci", "--layers", "--timestamp", str(timestamp()), "--tag", recipe.tag]
    options += ["--ignorefile", f"{file}.dockerignore"]
    options += ["--cache-from", recipe.cache, "--cache-to", recipe.cache] if recipe.cache else []
    pull = ["--pull=never"] if recipe.stand_in else []
    plain = [] if recipe.compress else ["--disable-compression"]
    return [
        [recipe.tool, "build", *options, *pull, context],
        [recipe.tool, "push", "--quiet", *plain, recipe.tag, f"oci:{target}:built"],
    ]


def build(recipe: Recipe, out: Path, tell: Callable[[str], None]) -> layout.Image:
    """Builds an image into the layout `out/<name>`, and reads it back. Raises BadInput or OpenRSError."""
    if recipe.name not in IMAGES:
        raise BadInput(f"{recipe.name}: no such image; one of {', '.join(IMAGES)}")
    uv_lock()
    if recipe.stand_in:
        make_stand_in(recipe.tool, tell)
    target, log = out / recipe.name, out / f"{recipe.name}.log"
    try:
        out.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{recipe.name}-", dir=out))
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be written ({error.strerror})") from None
    try:
        file = fresh / "Containerfile"
        file.write_text(containerfile(recipe))
        shutil.copy(PACKAGE.parent / "images" / f"{file.name}.dockerignore", fresh)
        for line in command(recipe, file, fresh / "layout"):
            tell(f"{line[0]} {line[1]} {recipe.name}, log in {log}")
            call(line, f"{line[0]} {line[1]} {recipe.name}", log=log)
        image = layout.read_layout(fresh / "layout")
        shutil.rmtree(target, ignore_errors=True)
        (fresh / "layout").rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return image


def make_stand_in(tool: str, tell: Callable[[str], None]) -> None:
    """A Debian of today's packages under STAND_IN, unless there is one: for where no registry can be asked.

    Raises BadInput or OpenRSError.
    """
    if tool == "docker":
        raise BadInput("--stand-in: needs buildah or podman, which keep images that no registry has; --builder buildah")
    have = subprocess.run([tool, "inspect", "--type", "image", STAND_IN], capture_output=True, check=False)
    if have.returncode == 0:
        return
    need("mmdebstrap")
    tell("making a base from Debian's packages")
    # As Debian's own images: without what only brings perl, and without documentation.
    slim = ["--include=usr-is-merged", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
    with tempfile.TemporaryDirectory() as directory:
        tar = Path(directory) / "root.tar"
        call(["mmdebstrap", "--quiet", "--variant=apt", *slim, *left_out, "bookworm", tar], "mmdebstrap")
        (Path(directory) / "Containerfile").write_text("FROM scratch\nADD root.tar /\n")
        options = ["--format", "oci", "--timestamp", str(timestamp()), "--tag", STAND_IN]
        call([tool, "build", *options, directory], f"{tool} build of the stand-in")
