"""Runs in the image that is verified, by its own Python, from standard input: looks, and prints what it found as JSON.

Only the standard library, and nothing of openrs: what is looked at is not asked about itself.
"""

import base64
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile

SECRET_FILES = (
    "~/.netrc",
    "~/.docker/config.json",
    "~/.aws",
    "~/.ssh",
    "~/.cache/huggingface/token",
    "~/.config/pip",
    "/root/.netrc",
)
LEFTOVERS = ("/root/.cache", "/var/lib/apt/lists", "/var/cache/apt/archives", "/build", "/src")


def records() -> list[str]:
    """Files of installed packages that are not what the packages' RECORD says (PyPA, "Recording installed projects").

    Byte code is written when the image is built, so no RECORD knows it.
    """
    wrong = []
    for distribution in importlib.metadata.distributions():
        for file in distribution.files or []:
            if file.hash is None or file.suffix == ".pyc":
                continue
            try:
                with open(str(distribution.locate_file(file)), "rb") as content:
                    digest = hashlib.file_digest(content, file.hash.mode).digest()
            except OSError:
                wrong.append(f"{file} is missing")
                continue
            if base64.urlsafe_b64encode(digest).decode().rstrip("=") != file.hash.value:
                wrong.append(f"{file} was changed")
    return wrong


def imports(modules: list[str]) -> dict[str, str]:
    """Module → why it cannot be imported, each in a process of its own: one that crashes is an answer, too."""
    wrong = {}
    for module in modules:
        done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, cwd="/tmp")
        if done.returncode:
            wrong[module] = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return wrong


def writable(places: list[str]) -> dict[str, bool]:
    """Place → whether a file can be made there."""
    found = {}
    for place in places:
        try:
            with tempfile.NamedTemporaryFile(dir=place):
                found[place] = True
        except OSError:
            found[place] = False
    return found


def gpu() -> str | None:
    """What flash-attn and vLLM say on a GPU; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    code = (
        "import torch, vllm._custom_ops; from flash_attn import flash_attn_func as flash;"
        "q = torch.randn(1, 128, 4, 64, device='cuda', dtype=torch.bfloat16);"
        "plain = torch.nn.functional.scaled_dot_product_attention(*[q.transpose(1, 2)] * 3).transpose(1, 2);"
        "assert (flash(q, q, q) - plain).abs().max() < 0.05, 'flash-attn computes something else than torch';"
        "x = torch.randn(4, 256, device='cuda', dtype=torch.bfloat16); y = torch.empty_like(x[:, :128]);"
        "torch.ops._C.silu_and_mul(y, x);"
        "assert (y - torch.nn.functional.silu(x[:, :128]) * x[:, 128:]).abs().max() < 0.1, 'vLLM computes something else than torch'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/tmp")
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]


def main() -> None:
    """One object on standard output."""
    wanted = json.loads(sys.argv[1])
    try:
        with open(os.path.join(sys.prefix, "image.json")) as file:
            facts = json.load(file)
    except (OSError, ValueError):
        facts = None
    found = {
        "python": platform.python_version(),
        "facts": facts,
        "distributions": {
            d.metadata["Name"].lower().replace("_", "-").replace(".", "-"): d.version
            for d in importlib.metadata.distributions()
        },
        "records": records(),
        "imports": imports(wanted["imports"]),
        "writable": writable(wanted["writable"]),
        "secrets": [place for place in SECRET_FILES if os.path.exists(os.path.expanduser(place))],
        "leftovers": [place for place in LEFTOVERS if os.path.isdir(place) and os.listdir(place)],
        "gpu": gpu() if wanted["gpu"] else None,
    }
    print(json.dumps(found))


main()
