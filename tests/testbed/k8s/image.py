"""Container images without a builder: busybox for a shell, and paths of this machine with the libraries they load."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

from tests.testbed.k8s.machine import PATH, run

_DIRECTORIES = ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "root")
_OPEN_DIRECTORIES = ("tmp", "var/tmp")
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\nuser:x:1000:\n",
}
# What Python wheels may load of the system beside the C library (PEP 599); torch and scipy do.
_WHEEL_LIBRARIES = (
    "libstdc++.so.6 libgcc_s.so.1 libz.so.1 libpthread.so.0 libdl.so.2 librt.so.1 libutil.so.1 libresolv.so.2".split()
)
# Most of an interpreter's bulk, and no program needs it to run.
_NOT_NEEDED = ("test", "site-packages", "dist-packages", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3")


def pack(tar: Path, name: str, paths: Iterable[Path | str] = (), leave_out: Collection[str] = ()) -> None:
    """Write an image archive that `ctr images import` and `docker load` take; files belong to root, any user reads them.

    `leave_out` names files and directories in `paths` that are not wanted.
    """
    with tempfile.TemporaryFile(dir=tar.parent) as layer:
        with tarfile.open(fileobj=layer, mode="w") as archive:
            _Tree(archive, leave_out).fill(map(str, paths))
        size = layer.seek(0, os.SEEK_END)
        layer.seek(0)
        digest = hashlib.file_digest(layer, "sha256").hexdigest()
        config = {
            "architecture": {"aarch64": "arm64"}.get(os.uname().machine, "amd64"),
            "os": "linux",
            # It must not end by itself: the sandbox of every pod is such an image too.
            "config": {"Env": [f"PATH={PATH}"], "Cmd": ["sleep", "infinity"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
        layer.seek(0)
        with tarfile.open(tar, "w") as archive:
            _add(archive, "manifest.json", json.dumps(manifest).encode())
            _add(archive, "config.json", json.dumps(config).encode())
            entry = tarfile.TarInfo("layer.tar")
            entry.size = size
            archive.addfile(entry, layer)


def pack_python(tar: Path, name: str) -> None:
    """An image of the interpreter under the environment that runs this, at the paths that it has here.

    The environment itself is for the pods to mount: with torch in it it is 5 GB.
    """
    standard = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix}))
    config = sysconfig.get_config_var("LIBPL")  # what one links against
    python = Path(sys.prefix) / "bin" / "python" if sys.prefix != sys.base_prefix else Path(sys.executable)
    # The links from the environment to the interpreter, of which the first lie in what is mounted later.
    paths = [str(python), str(standard), *_system_libraries()]
    pack(tar, name, paths, leave_out=[*_NOT_NEEDED, *([Path(config).name] if config else [])])


def _system_libraries() -> list[str]:
    cached = run("/sbin/ldconfig", "-p").splitlines()
    machine = os.uname().machine.replace("x86_64", "x86-64")
    found: dict[str, str] = {}
    for line in cached:
        library, _, path = line.strip().partition(" => ")
        if path and (machine in library or "64" in library):
            found.setdefault(library.split()[0], path)
    return [found[library] for library in _WHEEL_LIBRARIES if library in found]


def _add(
    archive: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    mode: int = 0o644,
) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname, entry.mode = len(data), kind, link, mode
    archive.addfile(entry, io.BytesIO(data))


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = (entry.mode | 0o444 | (0o111 if entry.isdir() or entry.mode & 0o100 else 0)) & ~0o022
    return entry


class _Tree:
    """What goes into a layer, each path once."""

    def __init__(self, archive: tarfile.TarFile, leave_out: Collection[str]) -> None:
        self.archive, self.leave_out = archive, frozenset(leave_out)
        self.visited: set[str] = set()
        self.added = {"/", *(f"/{name}" for name in (*_DIRECTORIES, *_OPEN_DIRECTORIES, *_LINKS, "usr", "var"))}

    def fill(self, paths: Iterable[str]) -> None:
        for directory in _DIRECTORIES:
            _add(self.archive, directory, kind=tarfile.DIRTYPE, mode=0o755)
        for directory in _OPEN_DIRECTORIES:
            _add(self.archive, directory, kind=tarfile.DIRTYPE, mode=0o1777)
        for link, target in _LINKS.items():
            _add(self.archive, link, kind=tarfile.SYMTYPE, link=target)
        for file, text in _FILES.items():
            _add(self.archive, file, text.encode())
        self.archive.add("/bin/busybox", "usr/bin/busybox", filter=_readable)
        for applet in run("/bin/busybox", "--list").split():
            if applet != "busybox":
                _add(self.archive, f"usr/bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")
        for path in paths:
            self.copy(path)
        for library in _libraries([path for path in self.added if _is_elf(path)]):
            self.copy(library)

    def copy(self, path: str) -> None:
        """Add a file or a tree, with every link on the way to it and what each points to."""
        path = os.path.abspath(path)
        if path in self.visited:  # links may go in circles
            return
        self.visited.add(path)
        current, words = "/", path.split("/")[1:]
        for place, word in enumerate(words):
            current = os.path.join(current, word)
            if os.path.islink(current):
                self._put(current)
                target = os.path.join(os.path.dirname(current), os.readlink(current), *words[place + 1 :])
                if os.path.exists(target):
                    self.copy(target)
                return
            if place < len(words) - 1:
                self._put(current)
        self._put(current)
        if os.path.isdir(current):
            for name in sorted(os.listdir(current)):
                if name not in self.leave_out:
                    self.copy(os.path.join(current, name))

    def _put(self, path: str) -> None:
        if path not in self.added:
            self.added.add(path)
            self.archive.add(path, path, recursive=False, filter=_readable)


def _is_elf(path: str) -> bool:
    if not os.path.lexists(path) or not stat.S_ISREG(os.lstat(path).st_mode):
        return False
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(binaries: list[str]) -> set[str]:
    if not binaries:
        return set()
    # It fails on a static one, and tells of the others all the same.
    text = subprocess.run(["ldd", *binaries], capture_output=True, text=True).stdout
    return {word for line in text.splitlines() if "(0x" in line for word in line.split() if word.startswith("/")}
