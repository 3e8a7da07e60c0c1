"""Images in registries, by skopeo: what is there, and putting ours there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from openrs.errors import BadInput
from openrs.images.layout import Image, image_of, read_layout
from openrs.images.tools import call, need


def push(layout: Path, reference: str, insecure: bool) -> str:
    """Puts a built image into a registry unchanged; its reference by digest. Raises BadInput or OpenRSError."""
    image = read_layout(layout)
    verify = f"--dest-tls-verify={'false' if insecure else 'true'}"
    copy = [need("skopeo"), "copy", "--quiet", "--preserve-digests", verify, f"oci:{layout}", f"docker://{reference}"]
    call(copy, f"pushing {reference}")
    name = reference if ":" not in reference.rpartition("/")[2] else reference.rpartition(":")[0]
    return f"{name}@{image.digest}"


def look_up(reference: str, insecure: bool) -> Image:
    """The image behind a reference. Raises BadInput where the digest is not that of what comes, else OpenRSError."""
    skopeo, verify = need("skopeo"), f"--tls-verify={'false' if insecure else 'true'}"
    inspect = [skopeo, "inspect", verify]
    raw = call([*inspect, "--raw", f"docker://{reference}"], f"looking up {reference}")
    digest = f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}"
    wanted = reference.partition("@")[2]
    if wanted and digest != wanted:
        raise BadInput(f"{reference}: the registry gives {digest}; this is another image")
    manifest = json.loads(raw)
    config = json.loads(call([*inspect, "--config", f"docker://{reference}"], f"looking up {reference}"))
    return image_of(digest, manifest if "layers" in manifest else {"layers": []}, config)
