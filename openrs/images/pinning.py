"""What may be pinned: an image that is there, built from this uv.lock, on the pinned base."""

from __future__ import annotations

from openrs.errors import BadInput
from openrs.images.build import IMAGES, uv_lock
from openrs.images.layout import BASE, REVISION, STAND_IN, TITLE, UV_LOCK, Image
from openrs.images.pins import Pushed
from openrs.spec.kubernetes import is_image
from openrs.spec.paths import shortened


def check(name: str, reference: str) -> None:
    """Raises BadInput for a name or a reference that no registry needs to be asked about."""
    if name not in IMAGES:
        raise BadInput(f"{shortened(name)}: no such image; one of {', '.join(IMAGES)}")
    check_reference(reference)


def check_reference(reference: str) -> None:
    """Raises BadInput for what is no reference of an image in a registry."""
    if "/" not in reference or not is_image(reference):
        raise BadInput(
            f"{shortened(reference)!r} is no reference of an image: write REGISTRY/REPOSITORY@sha256:<64 hex digits>, as "
            f"`openrs images build NAME --push` prints it"
        )


def pushed(name: str, reference: str, image: Image) -> Pushed:
    """The entry for an image that a registry gave for `reference`. Raises BadInput."""
    repository, _, digest = reference.partition("@")
    if not digest:
        raise BadInput(
            f"{reference}: name it by digest, {reference}@{image.digest}; a tag may be another image tomorrow"
        )
    labels = image.labels
    if labels.get(TITLE) != f"openrs/{name}":
        raise BadInput(f"{reference} is not the image {name}: its label {TITLE} is {labels.get(TITLE)!r}")
    if labels.get(UV_LOCK) != uv_lock():
        raise BadInput(
            f"{reference} was built from another uv.lock ({labels.get(UV_LOCK)}) than the one here ({uv_lock()}); build it anew"
        )
    if labels.get(BASE) == STAND_IN:
        raise BadInput(f"{reference} stands on a stand-in base; build it without --stand-in to pin it")
    return Pushed(name=repository, digest=digest, revision=labels.get(REVISION, "unknown"), uv_lock=uv_lock())
