"""An image as a directory (OCI image layout specification): what every builder can write and every registry takes unchanged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrs.errors import BadInput

UV_LOCK = "dev.openrs.uv-lock"
BASE = "org.opencontainers.image.base.digest"
REVISION = "org.opencontainers.image.revision"
VERSION = "org.opencontainers.image.version"
SOURCE = "org.opencontainers.image.source"
TITLE = "org.opencontainers.image.title"
STAND_IN = "stand-in"
"""In place of a base's digest, where the base was made on this machine."""


@dataclass(frozen=True)
class Layer:
    """A layer as a registry stores it."""

    digest: str
    size: int
    """Bytes, compressed."""
    made_by: str
    """The step that made it."""


@dataclass(frozen=True)
class Image:
    """What manifest and configuration say."""

    digest: str
    config: dict[str, Any]
    """OCI image configuration: user, entry point, environment, labels, history."""
    layers: list[Layer]

    @property
    def size(self) -> int:
        """Bytes of all layers, compressed: what a node pulls."""
        return sum(layer.size for layer in self.layers)

    @property
    def settings(self) -> dict[str, Any]:
        """How a container of it starts."""
        found: dict[str, Any] = self.config.get("config", {})
        return found

    @property
    def labels(self) -> dict[str, str]:
        """Labels; empty where there are none."""
        return dict(self.settings.get("Labels") or {})


def read_layout(directory: Path) -> Image:
    """The one image in a layout. Raises BadInput where there is none."""
    try:
        (entry,) = json.loads((directory / "index.json").read_bytes())["manifests"]
        manifest = json.loads(_blob(directory, entry["digest"]))
        if "manifests" in manifest:  # an index within, as buildx writes it
            (entry,) = [each for each in manifest["manifests"] if each.get("platform", {}).get("os") == "linux"]
            manifest = json.loads(_blob(directory, entry["digest"]))
        config = json.loads(_blob(directory, manifest["config"]["digest"]))
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{directory}: no OCI image layout with one image in it ({error})") from None
    return image_of(entry["digest"], manifest, config)


def image_of(digest: str, manifest: dict[str, Any], config: dict[str, Any]) -> Image:
    """The image of a manifest and a configuration."""
    steps = [step.get("created_by", "") for step in config.get("history", []) if not step.get("empty_layer")]
    layers = manifest["layers"]
    steps += [""] * (len(layers) - len(steps))
    return Image(
        digest,
        config,
        [Layer(layer["digest"], layer["size"], step) for layer, step in zip(layers, steps, strict=False)],
    )


def _blob(directory: Path, digest: str) -> bytes:
    kind, _, value = digest.partition(":")
    return (directory / "blobs" / kind / value).read_bytes()
