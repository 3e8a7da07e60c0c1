"""Which bytes made a result: code, packages, machine. `source.json` by the client, `lock.json` by the first attempt."""

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
    "torch transformers trl accelerate deepspeed datasets tokenizers safetensors numpy math-verify latex2sympy2-extended "
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
    """What is known of the package in `code`: version, git commit, a hash of what differs from it, uv.lock, image, itself."""
    sha = _git("rev-parse", "HEAD") if _git("ls-files", "--error-unmatch", "__init__.py") else None
    diff = _git("diff", "HEAD") if sha else None
    lock = PACKAGE.parent / "uv.lock"
    content = {
        "openrs": __version__,
        "git_sha": sha,
        "git_diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
        "uv_lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if sha and lock.is_file() else None,
        "code": tree_hash(code),
        "image": os.environ.get("OPENRS_IMAGE"),
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
        "gpus": gpus(),
    }


def gpus() -> list[str]:
    """`name, driver version` of each GPU that nvidia-smi shows; empty where there is none or no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return (
        [line.strip() for line in result.stdout.decode(errors="replace").splitlines() if line.strip()]
        if result.returncode == 0
        else []
    )


def lock_content(source: Path) -> dict[str, Any]:
    """Everything that `lock.json` records, in the job's own environment."""
    return {
        "schema_version": 1,
        **(read_object(source) or {}),
        "python": platform.python_version(),
        "distributions": distributions(),
        "hardware": hardware(),
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
    code = (read_object(source) or {}).get("code")
    for what, was, is_ in (("python", lock.get("python"), platform.python_version()), ("code", lock.get("code"), code)):
        if was != is_:
            harmless.append(f"{what} {was} → {is_}")
    return grave, harmless
