"""Which bytes made a result: image, code, packages, machine. `source.json` by the client, `lock.json` by the first attempt."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from openrs import __version__
from openrs.runs.files import read_object
from openrs.spec.load import PACKAGE

RESULT_CHANGING = frozenset(
    "torch transformers accelerate deepspeed datasets tokenizers safetensors numpy math-verify latex2sympy2-extended "
    "sympy vllm flash-attn lighteval".split()
)
"""Distributions whose version can change what a run computes: another one than the first attempt's is refused."""


def _git(*args: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    result = subprocess.run([git, "-C", str(PACKAGE), *args], capture_output=True, timeout=30, check=False)
    return result.stdout.decode(errors="replace").strip() if result.returncode == 0 else None


def tree_hash(directory: Path) -> str:
    """sha256 over names and contents of all files below `directory`, without byte code."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(directory)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def source_json(code: Path) -> str:
    """What is known of the package in `code`: version, git commit, a hash of what differs from it, uv.lock, itself."""
    built = image_facts()
    sha = _git("rev-parse", "HEAD") if _git("ls-files", "--error-unmatch", "__init__.py") else None
    diff = _git("diff", "HEAD") if sha else None
    lock = PACKAGE.parent / "uv.lock"
    content = {
        "openrs": __version__,
        "git_sha": sha or built.get("revision"),
        "git_diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
        "uv_lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest()
        if sha and lock.is_file()
        else built.get("uv_lock"),
        "code": tree_hash(code),
        "host": socket.gethostname(),
    }
    return json.dumps(content, indent=2) + "\n"


@functools.cache
def distributions() -> dict[str, str]:
    """Name → version of everything installed for this Python.

    Read from the names of its `.dist-info` directories (the wheel format has both there), not from the metadata inside:
    hundreds of files on a busy node take longer than a lease.
    """
    found: dict[str, str] = {}
    for directory in reversed(sys.path):  # what stands first on the path is what is imported
        with contextlib.suppress(OSError):
            for name in os.listdir(directory or "."):
                stem, dot, _ = name.rpartition(".dist-info")
                distribution, dash, version = stem.partition("-")
                if dot and dash:
                    found[distribution.lower().replace("_", "-")] = version
    return dict(sorted(found.items()))


def image_facts() -> dict[str, Any]:
    """What the image that this Python stands in says of itself: `image`, `revision`, `uv_lock`; empty outside of one.

    `image.json` is written by images/Containerfile.
    """
    return read_object(Path(sys.prefix) / "image.json") or {}


def hardware() -> dict[str, Any]:
    """The machine that this process runs on."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    except OSError:
        pass
    # In a pod, the host's name is the pod's.
    return {
        "node": os.environ.get("OPENRS_NODE") or socket.gethostname(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpus": gpus("name,driver_version"),
        "compute_capability": gpus("compute_cap"),
        "shm_gb": shm_gb(),
    }


def shm_gb() -> float | None:
    """Size of the shared memory in GiB, where NCCL and data loaders put what they exchange."""
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return None
    return round(status.f_blocks * status.f_frsize / 2**30, 1)


def gpus(fields: str) -> list[str]:
    """These fields of each GPU that nvidia-smi shows, joined by `, `; empty where there is none or no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return (
        [line.strip() for line in result.stdout.decode(errors="replace").splitlines() if line.strip()]
        if result.returncode == 0
        else []
    )


def lock_content(source: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """Everything that `lock.json` records, in the job's own environment; `machine` is `hardware()`."""
    return {
        "schema_version": 1,
        **(read_object(source) or {}),
        "image": os.environ.get("OPENRS_IMAGE"),
        "image_facts": image_facts(),
        "python": platform.python_version(),
        "distributions": dict(distributions()),
        "hardware": machine,
    }


def differences(lock: dict[str, Any], source: Path) -> tuple[list[str], list[str]]:
    """(what differs and changes results, what else differs) between `lock` and this environment, one line each.

    `source` is the submission's `source.json`: a resumed run may run newer code than it began with.
    """
    then, now = lock.get("distributions", {}), distributions()
    changed = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    lines = {
        name: f"{name} {then.get(name, 'absent')} → {now.get(name, 'absent')}" for name in changed if name != "openrs"
    }
    grave = [line for name, line in lines.items() if name in RESULT_CHANGING]
    harmless = [line for name, line in lines.items() if name not in RESULT_CHANGING]
    sent, image = read_object(source) or {}, os.environ.get("OPENRS_IMAGE")
    if _bytes_of(lock.get("image")) != _bytes_of(image):
        grave.append(f"image {lock.get('image') or 'none'} → {image or 'none'}")
    for what, was, is_ in (
        ("python", lock.get("python"), platform.python_version()),
        ("code", lock.get("code"), sent.get("code")),
        ("uv.lock", lock.get("uv_lock_sha256"), sent.get("uv_lock_sha256")),
    ):
        if was != is_:
            harmless.append(f"{what} {was} → {is_}")
    return grave, harmless


def _bytes_of(image: str | None) -> str | None:
    """What of a reference decides: the digest where it has one, whichever registry it came from."""
    return image.rpartition("@")[2] if image else None


def foreign_image(source: Path) -> str | None:
    """Why this image is not one for the code that was sent: it was built from another uv.lock. None where nothing speaks against it."""
    built, sent = image_facts().get("uv_lock"), (read_object(source) or {}).get("uv_lock_sha256")
    if not built or not sent or str(built).removeprefix("sha256:") == str(sent).removeprefix("sha256:"):
        return None
    return f"the image was built from another uv.lock ({built}) than the code that was sent ({sent})"


def machine_differences(first: dict[str, Any], now: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The same for two machines (`hardware()`): of the stage's first attempt, and this one.

    Another type of GPU computes other numbers. How many there are, the driver and the size of shared memory only change how
    fast it goes, or whether at all.
    """
    then, here = _types(first), _types(now)
    grave = [f"GPU {' and '.join(then)} → {' and '.join(here)}"] if then and here and then != here else []
    harmless = [
        f"{what} {was} → {is_}"
        for what, was, is_ in (
            ("GPUs", len(first.get("gpus", [])), len(now.get("gpus", []))),
            ("driver", _drivers(first), _drivers(now)),
            ("shared memory", first.get("shm_gb"), now.get("shm_gb")),
        )
        if was != is_
    ]
    return grave, harmless


def unfit(machine: dict[str, Any], attention: str) -> str | None:
    """Why this machine cannot compute that attention: flash-attn has code for compute capability 8.0 and later only."""
    old = sorted({capability for capability in machine.get("compute_capability", []) if _below(capability, 8)})
    if not old or attention != "flash_attention_2":
        return None
    return (
        f"model.attention = {attention} needs GPUs of compute capability 8.0 or more, this node's have {', '.join(old)}"
    )


def _types(machine: dict[str, Any]) -> list[str]:
    return sorted({str(gpu).rpartition(", ")[0] for gpu in machine.get("gpus", [])})


def _drivers(machine: dict[str, Any]) -> str:
    return " and ".join(sorted({str(gpu).rpartition(", ")[2] for gpu in machine.get("gpus", [])}))


def _below(capability: str, major: int) -> bool:
    head = capability.partition(".")[0]
    return head.isdecimal() and int(head) < major
