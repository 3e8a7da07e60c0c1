"""Files that ship beside the package: templates of `slurm/`, manifests of `k8s/`, what `images/` builds from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template

_PACKAGE = Path(__file__).resolve().parent


def shipped(folder: str) -> Path:
    """`folder` of the source tree, or its copy inside an installed wheel."""
    inside = _PACKAGE / "_shipped" / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def template(folder: str, name: str) -> Template:
    """A text template; an unknown variable is an error, nothing is escaped by itself."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(shipped(folder))
    return Environment(
        loader=loader,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    ).get_template(name)
