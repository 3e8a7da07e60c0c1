"""images/pins.toml: which bytes a name stands for."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from openrs.errors import BadInput
from openrs.resources import shipped
from openrs.runs.files import write_atomic
from openrs.spec.base import Line, Strict
from openrs.spec.explain import explain

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""Of a manifest or an index (OCI image specification, "Digests")."""


class Base(Strict):
    """An image from outside."""

    name: Line
    """Registry and repository."""
    tag: Line
    """What the digest was called when somebody looked."""
    digest: Digest
    source: Line
    """Who saw tag and digest together."""

    @property
    def reference(self) -> str:
        """As a builder takes it; the tag is for people."""
        return f"{self.name}:{self.tag}@{self.digest}"


class Pushed(Strict):
    """An image of ours in a registry."""

    name: Line
    """Registry and repository."""
    digest: Digest
    revision: Line
    """Commit that it was built from."""
    uv_lock: Digest
    """sha256 of the uv.lock that it was built from."""

    @property
    def reference(self) -> str:
        """As a cluster takes it."""
        return f"{self.name}@{self.digest}"


class Pins(Strict):
    """The whole file."""

    snapshot: Annotated[str, Field(pattern=r"^\d{8}T\d{6}Z$")]
    """Time in snapshot.debian.org from which apt takes its packages."""
    base: dict[Line, Base]
    image: dict[Line, Pushed] = {}


def path() -> Path:
    """Where the file stands: in the source tree, or inside an installed package."""
    return shipped("images") / "pins.toml"


@cache
def pins() -> Pins:
    """What the file says. Raises BadInput."""
    try:
        return Pins.model_validate(tomllib.loads(path().read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path()}: {error}") from None
    except ValidationError as error:
        raise BadInput(f"{path()}: {explain(Pins, error)}") from None


def pinned(name: str) -> str | None:
    """The reference, by digest, of the newest pushed image of that name."""
    image = pins().image.get(name)
    return None if image is None else image.reference


def write(name: str, image: Pushed) -> None:
    """Puts a pushed image into the file, in place of an earlier one of that name. Raises BadInput."""
    content = path().read_text(encoding="utf-8")
    fields: dict[str, Any] = image.model_dump()
    table = f"[image.{name}]\n" + "".join(f'{key} = "{value}"\n' for key, value in fields.items())
    old = re.compile(rf"^\[image\.{re.escape(name)}\]\n(?:[^\[\n].*\n)*", re.MULTILINE)
    content = old.sub("", content).rstrip("\n") + "\n\n" + table
    try:
        write_atomic(path(), re.sub(r"\n{3,}", "\n\n", content))
    except OSError as error:
        raise BadInput(f"{path()}: cannot be written ({error.strerror}); pin from a checkout of openrs") from None
    pins.cache_clear()
