"""The programs that build, copy and start images: which one is there, and their complaints in one line."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from openrs.errors import BadInput, OpenRSError

BUILDERS = ("buildah", "podman", "docker")

_WAYS_OUT = (
    # what the programs say → in our words, and what to do
    (
        r"no space left on device|disk quota exceeded",
        "the disk is full; free some, or set TMPDIR and the builder's storage to another one",
    ),
    (
        r"unauthorized|authentication required|denied",
        "the registry wants credentials: `skopeo login REGISTRY` or `docker login REGISTRY`",
    ),
    (
        r"manifest unknown|manifest invalid|name unknown|repository .* not found|not found: manifest|\b404\b",
        "the registry has no such image or digest",
    ),
    (r"server gave HTTP response to HTTPS client", "the registry speaks plain HTTP: --insecure"),
    (
        r"no such host|connection refused|i/o timeout|network is unreachable|could not resolve|connection reset|tls handshake|x509",
        "the registry or the package index cannot be reached from here",
    ),
)


def need(name: str, package: str | None = None) -> str:
    """Path of a program. Raises BadInput."""
    found = shutil.which(name)
    if found is None:
        raise BadInput(f"{name} is not on PATH; install it (Debian: apt-get install {package or name})")
    return found


def builder(wanted: str | None = None) -> str:
    """The first of buildah, podman and docker that is there; docker with buildx. Raises BadInput."""
    if wanted is not None and wanted not in BUILDERS:
        raise BadInput(f"--builder {wanted}: one of {', '.join(BUILDERS)}")
    for name in BUILDERS if wanted is None else (wanted,):
        if shutil.which(name) is not None:
            return name
    raise BadInput(
        f"no builder on PATH: {wanted or 'buildah, podman or docker with buildx'}; Debian: apt-get install buildah runc"
    )


def call(command: Sequence[str | Path], what: str, log: Path | None = None, stdin: str | None = None) -> str:
    """Runs a program; what it printed. With `log`, that goes there as it comes.

    Raises OpenRSError: `what` failed, why, and the way out where it is known.
    """
    words = [str(word) for word in command]
    if log is None:
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, errors="replace", check=False)
        code, output, complaint = done.returncode, done.stdout, done.stderr
    else:
        with open(log, "w") as file:
            code = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False).returncode
        output = ""
        complaint = log.read_text(errors="replace") if code else ""
    if code:
        raise OpenRSError(f"{what} failed: {reason(complaint)}" + (f"; all of it in {log}" if log else ""))
    return output


def reason(complaint: str) -> str:
    """The last thing that a program said, and what to do about it."""
    lines = [_plain(line) for line in complaint.splitlines() if line.strip()]
    said = [line for line in lines if re.search(r"error|fatal|failed|denied|E:|ERROR", line)] or lines
    if not said:
        return "it printed nothing"
    end = lines[-30:]
    for pattern, words in _WAYS_OUT:
        shown = next((line for line in reversed(end) if re.search(pattern, line, re.IGNORECASE)), None)
        if shown is not None:
            return f"{words} ({_short(shown)})"
    return _short(said[-1])


def _plain(line: str) -> str:
    """A line without what logrus, which skopeo logs with, puts around the message."""
    logged = re.search(r'level=\w+ msg="(.*)"$', line.strip())
    return logged[1].replace('\\"', '"') if logged else line.strip()


def _short(line: str) -> str:
    """The end of a line, which says most."""
    return line if len(line) <= 300 else f"…{line[-300:]}"
