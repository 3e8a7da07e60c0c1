"""`openrs images verify`: whether an image is what its labels, this checkout's uv.lock and our rules say."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrs.errors import BadInput, OpenRSError
from openrs.images.build import IMAGES, uv_lock
from openrs.images.layout import BASE, STAND_IN, TITLE, UV_LOCK, Image
from openrs.images.requirements import versions
from openrs.images.tools import builder, call

PYTHON = "/opt/openrs/bin/python"
WRITABLE = ("/tmp", "/cache", "/cache/huggingface", "/cache/triton", "/cache/vllm")

_MODULES = {
    "cli": "openrs.cli.app typer pydantic yaml jinja2 rich submitit kubernetes matplotlib scipy".split(),
    "smoke": "openrs.worker.supervisor openrs.training.trainer torch transformers accelerate datasets math_verify".split(),
    "train": "deepspeed vllm flash_attn".split(),
    "eval": ["lighteval"],
}
_GPU = ("train", "eval")
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY)", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:]+:[^@/\s]+@"
)


@dataclass(frozen=True)
class Finding:
    """One check."""

    what: str
    wrong: list[str]
    """What does not hold; empty where all does."""


def modules(name: str) -> list[str]:
    """What must be importable in an image."""
    order = {
        "cli": ["cli"],
        "smoke": ["cli", "smoke"],
        "train": ["cli", "smoke", "train"],
        "eval": ["cli", "smoke", "train", "eval"],
    }
    return [module for part in order[name] for module in _MODULES[part]]


def name_of(image: Image, reference: str) -> str:
    """Which of our images it says that it is. Raises BadInput."""
    name = image.labels.get(TITLE, "").removeprefix("openrs/")
    if name not in IMAGES:
        raise BadInput(f"{reference}: no image of openrs (its label {TITLE} is {image.labels.get(TITLE)!r})")
    return name


def outside(image: Image) -> list[Finding]:
    """What configuration and labels tell."""
    settings, lock = image.settings, image.labels.get(UV_LOCK)
    entry = [*(settings.get("Entrypoint") or []), *(settings.get("Cmd") or [])]
    user = str(settings.get("User", ""))
    environment = settings.get("Env") or []
    steps = [step.get("created_by", "") for step in image.config.get("history", [])]
    return [
        Finding(
            "built from this uv.lock",
            [] if lock == uv_lock() else [f"the label {UV_LOCK} is {lock}, uv.lock here is {uv_lock()}; build the image anew"],
        ),
        Finding("not root", [] if re.match(r"[1-9][0-9]*(:|$)", user) else [f"its user is {user or 'root'}"]),
        Finding(
            "starts openrs, no shell in between",
            [] if entry[:1] in ([PYTHON], ["/opt/openrs/bin/openrs"]) else [f"its entry point is {entry}"],
        ),
        Finding(
            "no secrets in its settings",
            [f"environment {item.partition('=')[0]}" for item in environment if _SECRET_NAME.search(item.partition("=")[0])]
            + [f"a step of its history: {step[:60]}" for step in [*steps, *environment] if _SECRET_VALUE.search(step)],
        ),
    ]  # fmt: skip


def inside(name: str, seen: dict[str, Any]) -> list[Finding]:
    """What a container of it told."""
    wanted = versions(name)
    found = {package: version for package, version in seen["distributions"].items() if package != "openrs"}
    differing = [
        f"{package} {found.get(package, 'absent')}, uv.lock has {wanted.get(package, 'none')}"
        for package in sorted(wanted.keys() | found.keys())
        if wanted.get(package) != found.get(package)
    ]
    lock = (seen["facts"] or {}).get("uv_lock")
    return [
        Finding("Python 3.11", [] if seen["python"].startswith("3.11.") else [f"it is {seen['python']}"]),
        Finding("its own facts name this uv.lock", [] if lock == uv_lock() else [f"image.json says {lock}"]),
        Finding("exactly the packages of uv.lock", differing),
        Finding("every file of every package as it was installed", seen["records"]),
        Finding("every package can be imported", [f"{module}: {why}" for module, why in seen["imports"].items()]),
        Finding("places for caches are writable", [place for place, can in seen["writable"].items() if not can]),
        Finding("no secrets, no leftovers of the build", seen["secrets"] + seen["leftovers"]),
        *(
            []
            if seen["gpu"] is None
            else [Finding("flash-attn and vLLM run on this GPU", [seen["gpu"]] if seen["gpu"] else [])]
        ),
    ]


def look_inside(name: str, source: str, tool: str | None, insecure: bool) -> dict[str, Any]:
    """What the image's own Python sees in a container without network, as another user than ours.

    `source` is a reference as `docker://…@sha256:…` or `oci:DIRECTORY`. Raises BadInput or OpenRSError.
    """
    tool = builder(tool)
    wanted = {
        "imports": modules(name),
        "writable": WRITABLE,
        "gpu": name in _GPU and shutil.which("nvidia-smi") is not None,
    }
    script = Path(__file__).with_name("inside.py").read_text()
    arguments = ["-", json.dumps(wanted)]
    if tool == "buildah":
        container = call(
            ["buildah", "from", "--quiet", *(["--tls-verify=false"] if insecure else []), source], f"starting {source}"
        ).strip()
        try:
            said = call(
                ["buildah", "run", "--user", "4321:4321", container, "--", PYTHON, *arguments],
                f"verifying {source}",
                stdin=script,
            )
        finally:
            call(["buildah", "rm", container], "removing the container")
    else:
        image = call([tool, "pull", "--quiet", source.removeprefix("docker://")], f"pulling {source}").strip()
        gpus = (
            {"podman": ["--device", "nvidia.com/gpu=all"], "docker": ["--gpus", "all"]}[tool] if wanted["gpu"] else []
        )
        run = [
            tool,
            "run",
            "--rm",
            "--interactive",
            "--network=none",
            "--read-only",
            "--tmpfs=/tmp",
            "--cap-drop=all",
            "--user=4321:4321",
        ]
        said = call([*run, *gpus, f"--entrypoint={PYTHON}", image, *arguments], f"verifying {source}", stdin=script)
    try:
        seen: dict[str, Any] = json.loads(said)
    except ValueError:
        raise OpenRSError(f"{source}: its Python printed no report, but {said[:100]!r}") from None
    return seen


def warnings(image: Image) -> list[str]:
    """What is no fault and should be known."""
    if image.labels.get(BASE) == STAND_IN:
        return [
            "its base is a stand-in from Debian's packages of the day, not the one of images/pins.toml: not for publishing"
        ]
    return []
