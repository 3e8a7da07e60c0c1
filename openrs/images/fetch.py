"""`openrs images fetch`: an image from its registry onto a Slurm cluster's shared root, once a digest, in its runtime's form."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openrs.errors import BadInput
from openrs.images import store
from openrs.images.layout import read_layout
from openrs.images.tools import call, need
from openrs.runs.files import read_object, write_atomic
from openrs.spec.cluster import Cluster

ORIGINAL = "image-config.json"
"""What umoci made of the image's configuration."""

_TMPFS = ["nosuid", "nodev", "mode=1777"]


def fetch(cluster: Cluster, layout: Path | None, insecure: bool, tell: Callable[[str], None]) -> dict[str, Any]:
    """Brings the profile's image to its place unless it is there; what `image.json` says. `layout` stands in for the registry.

    Raises BadInput or OpenRSError; then nothing is left behind.
    """
    if cluster.container is None:
        raise BadInput(
            f"cluster {cluster.name}: container is not set, so no image is to be fetched; pyxis, apptainer or oci"
        )
    reference, place = store.reference(cluster), store.directory(cluster)
    digest = reference.rpartition("@")[2]
    try:
        Path(cluster.shared_root or "", "cache").mkdir(parents=True, exist_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not (place / store.RECORD).exists():
            fresh = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
            try:
                fresh.chmod(0o755)
                tell(f"{reference} → {place}")
                _IMPORTS[cluster.container](reference, layout, insecure, fresh)
                content = store.CONTENT[cluster.container]
                record = {
                    "image": reference,
                    "digest": digest,
                    "content": content,
                    "fingerprint": store.fingerprint(fresh / content),
                }
                write_atomic(fresh / store.RECORD, json.dumps(record, indent=2) + "\n")
                fresh.rename(place)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        if cluster.container == "oci":
            _write_bundle(cluster, place)
    except OSError as error:
        raise BadInput(
            f"cluster {cluster.name}: {error.filename or place}: cannot be written ({error.strerror})"
        ) from None
    store.check(place, digest)
    found: dict[str, Any] = json.loads((place / store.RECORD).read_bytes())
    return {**found, "directory": str(place)}


def _oci(reference: str, layout: Path | None, insecure: bool, fresh: Path) -> None:
    umoci = need("umoci")
    with tempfile.TemporaryDirectory(dir=fresh.parent, prefix=".layout-") as directory:
        copy = Path(directory) / "image"
        _copy(reference, layout, insecure, copy)
        rootless = [] if os.geteuid() == 0 else ["--rootless"]
        call([umoci, "unpack", *rootless, "--image", f"{copy}:image", fresh / "bundle"], f"umoci unpack of {reference}")
    (fresh / "bundle" / "rootfs").rename(fresh / "rootfs")
    (fresh / "bundle" / "config.json").rename(fresh / ORIGINAL)
    shutil.rmtree(fresh / "bundle")


def _copy(reference: str, layout: Path | None, insecure: bool, copy: Path) -> None:
    """The image as a layout, whose digest is what was asked for. Raises OpenRSError and BadInput."""
    source = f"oci:{layout}" if layout is not None else f"docker://{reference}"
    options = [f"--src-tls-verify={'false' if insecure else 'true'}"] if layout is None else []
    call(
        [need("skopeo"), "copy", "--quiet", "--preserve-digests", *options, source, f"oci:{copy}:image"],
        f"fetching {reference}",
    )
    index = json.loads((copy / "index.json").read_bytes())["manifests"][0]["digest"]
    wanted = reference.rpartition("@")[2]
    if layout is not None and index != wanted:
        raise BadInput(f"--layout {layout}: holds the image {index}, and the profile wants {wanted}")
    read_layout(copy)
    for blob in (copy / "blobs" / "sha256").iterdir():
        with open(blob, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != blob.name:
                raise BadInput(
                    f"{reference}: the blob sha256:{blob.name} is not what its name says; the image was tampered with"
                )


def _apptainer(reference: str, layout: Path | None, insecure: bool, fresh: Path) -> None:
    source = f"oci:{layout}" if layout is not None else f"docker://{reference}"
    plain = ["--no-https"] if insecure else []
    call([need("apptainer"), "build", *plain, fresh / "image.sif", source], f"apptainer build of {reference}")


def _pyxis(reference: str, layout: Path | None, insecure: bool, fresh: Path) -> None:
    if layout is not None:
        raise BadInput("--layout: enroot imports from a registry only")
    registry, _, rest = reference.partition("/")
    plain = {"ENROOT_ALLOW_HTTP": "yes"} if insecure else {}
    command = ["env", *(f"{name}={value}" for name, value in plain.items()), need("enroot"), "import"]
    call([*command, "--output", fresh / "image.sqsh", f"docker://{registry}#{rest}"], f"enroot import of {reference}")


_IMPORTS = {"oci": _oci, "apptainer": _apptainer, "pyxis": _pyxis}


def _write_bundle(cluster: Cluster, place: Path) -> None:
    """The configuration beside the root file system, where Slurm insists on having it, with every profile's mounts."""
    config, known = json.loads((place / ORIGINAL).read_bytes()), read_object(place / "config.json") or {}
    wanted = {inside: outside for outside, inside in store.mounts(cluster)}
    before = {each["destination"]: each["source"] for each in known.get("mounts", []) if each["type"] == "bind"}
    both = [(outside, inside) for inside, outside in (before | wanted).items()]
    write_atomic(place / "config.json", json.dumps(bundle(config, place / "rootfs", both), indent=2) + "\n")


def bundle(config: dict[str, Any], root: Path, mounts: list[tuple[str, str]]) -> dict[str, Any]:
    """An OCI runtime configuration, as umoci makes one of an image, fit for a job.

    The job's user and the host's network and name; the image read-only; /tmp and /dev/shm in memory without umoci's limit of
    64 MB; NVIDIA's hook where the machine has it (OCI runtime specification, config.md and config-linux.md).
    """
    kept = {key: value for key, value in config.items() if key not in ("hostname", "annotations")}
    own = [mount for mount in config["mounts"] if mount["destination"] not in ("/dev/shm", "/tmp")]
    own += [
        {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": _TMPFS} for place in ("/dev/shm", "/tmp")
    ]
    own += [
        {"destination": inside, "type": "bind", "source": outside, "options": ["rbind", "rw"]}
        for outside, inside in mounts
    ]
    process = {key: value for key, value in config["process"].items() if key not in ("rlimits", "capabilities")}
    process |= {"terminal": False, "user": {"uid": os.getuid(), "gid": os.getgid()}}
    linux = dict(config["linux"]) | {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "mount")]}
    hook = shutil.which("nvidia-container-runtime-hook")
    hooks = (
        {"hooks": {"prestart": [{"path": hook, "args": ["nvidia-container-runtime-hook", "prestart"]}]}} if hook else {}
    )
    return (
        kept
        | {"root": {"path": str(root), "readonly": True}, "mounts": own, "process": process, "linux": linux}
        | hooks
    )
