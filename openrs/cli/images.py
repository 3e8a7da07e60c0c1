"""`openrs images`: the container images, from their build to a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openrs.cli.options import ClusterName, Json

if TYPE_CHECKING:
    from openrs.images.layout import Image

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Container images: build, verify, pin, bring to a cluster."
)

OUT = Path("build/images")
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where built images stand, as OCI layouts.")]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="The registry has plain HTTP or an unknown certificate.", show_default=False),
]
Builder = Annotated[
    str | None,
    typer.Option(
        "--builder",
        metavar="NAME",
        help="buildah, podman or docker (with buildx); the first that is there.",
        show_default=False,
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="cli, smoke, train or eval.", show_default=False)]


@app.command("list")
def list_(
    check: Annotated[
        bool,
        typer.Option("--check", help="Ask the registries whether tags still mean their digests.", show_default=False),
    ] = False,
    out: Out = OUT,
    json: Json = False,
) -> None:
    """What images there are, what is built here, what is pinned."""
    from openrs.cli.output import print_json
    from openrs.errors import OpenRSError
    from openrs.images import registry
    from openrs.images.build import IMAGES
    from openrs.images.layout import read_layout
    from openrs.images.pins import pinned, pins
    from openrs.report.text import table

    images: list[dict[str, Any]] = []
    for name, purpose in IMAGES.items():
        built = read_layout(out / name) if (out / name / "index.json").exists() else None
        here = None if built is None else {"digest": built.digest, "bytes": built.size}
        images.append({"image": name, "purpose": purpose, "built": here, "pinned": pinned(name)})
    bases = {name: base.model_dump() for name, base in pins().base.items()}
    now = {
        name: registry.look_up(f"{base.name}:{base.tag}", False).digest for name, base in pins().base.items() if check
    }
    if json:
        print_json({"images": images, "bases": bases, "now": now})
    else:
        rows = [
            (
                image["image"],
                image["purpose"],
                f"{image['built']['digest'][:19]} {megabytes(image['built']['bytes'])}" if image["built"] else "-",
                image["pinned"] or "-",
            )
            for image in images
        ]
        print(table(("IMAGE", "WHAT FOR", "BUILT HERE", "PINNED"), rows))
        print()
        print(table(("BASE", "TAG", "DIGEST"), [(b["name"], b["tag"], b["digest"]) for b in bases.values()]))
    moved = [f"base.{name} is now {digest}" for name, digest in now.items() if digest != bases[name]["digest"]]
    if moved:
        raise OpenRSError(f"images/pins.toml: {'; '.join(moved)}; put another digest there, with its source")


@app.command()
def build(
    name: Name,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="REPOSITORY[:TAG]", help="Push it there, unchanged.", show_default=False),
    ] = None,
    stand_in: Annotated[
        bool,
        typer.Option(
            "--stand-in",
            help="Where no registry can be asked: a base made of Debian's packages of today in place of the pinned one.",
            show_default=False,
        ),
    ] = False,
    twice: Annotated[
        bool,
        typer.Option("--twice", help="Build again from nothing; the digests must be the same.", show_default=False),
    ] = False,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="Certificates for downloads during the build.", show_default=False),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache", metavar="REPOSITORY", help="Layers of earlier builds, in a registry.", show_default=False
        ),
    ] = None,
    compress: Annotated[
        bool,
        typer.Option("--compress/--uncompressed", help="Uncompressed is faster, for an image that stays here."),
    ] = True,
    out: Out = OUT,
    builder: Builder = None,
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Build an image; its digest, and the size of each layer."""
    from dataclasses import replace

    from openrs.cli.output import now_and_then, print_json, say
    from openrs.errors import OpenRSError
    from openrs.images import build as building
    from openrs.images import registry, tools

    recipe = building.Recipe(name, tools.builder(builder), stand_in=stand_in, ca=ca, cache=cache, compress=compress)
    with now_and_then(lambda: f"building {name}"):
        image = building.build(recipe, out, say)
        if twice:
            again = building.build(replace(recipe, fresh=True), out / "again", say)
            if again.digest != image.digest:
                raise OpenRSError(
                    f"{name}: two builds differ: {image.digest}, then {again.digest} (in {out / 'again'})"
                )
    pushed = None if push is None else registry.push(out / name, push, insecure)
    if json:
        print_json({"image": name, "layout": str(out / name), "pushed": pushed, **described(image)})
        return
    show(image)
    print(f"{name} {image.digest} {megabytes(image.size)}{', the same twice' if twice else ''}")
    if pushed:
        print(pushed)


@app.command()
def verify(
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE",
            help="Name of one that is built here, or a reference REGISTRY/REPOSITORY@sha256:….",
            show_default=False,
        ),
    ],
    out: Out = OUT,
    builder: Builder = None,
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Start an image and check that it is what it says: packages, files, user, entry point, caches, secrets.

    Exit code 1, and a line for each thing that is wrong.
    """
    from openrs.cli.output import now_and_then, print_json, say
    from openrs.errors import BadInput, OpenRSError
    from openrs.images import pinning, registry
    from openrs.images import verify as checks
    from openrs.images.build import IMAGES
    from openrs.images.layout import read_layout

    built = "\0" not in image and (out / image / "index.json").exists()
    if not built and image in IMAGES:
        raise BadInput(f"{image}: not built here, below {out}; `openrs images build {image}` builds it")
    if not built:
        pinning.check_reference(image)
    found = read_layout(out / image) if built else registry.look_up(image, insecure)
    name = checks.name_of(found, image)
    with now_and_then(lambda: f"verifying {image}"):
        seen = checks.look_inside(name, f"oci:{out / image}" if built else f"docker://{image}", builder, insecure)
    findings = [*checks.outside(found), *checks.inside(name, seen)]
    wrong = [f"{finding.what}: {'; '.join(finding.wrong[:5])}" for finding in findings if finding.wrong]
    if json:
        shown = [{"check": finding.what, "wrong": finding.wrong} for finding in findings]
        print_json({"image": name, "digest": found.digest, "checks": shown, "warnings": checks.warnings(found)})
    else:
        for finding in findings:
            print(
                f"{'WRONG' if finding.wrong else 'ok':6} {finding.what}{': ' if finding.wrong else ''}{'; '.join(finding.wrong[:5])}"
            )
        for warning in checks.warnings(found):
            say(f"openrs: {warning}")
    if wrong:
        raise OpenRSError(f"{image} is not what it should be: {' · '.join(wrong)}")


@app.command()
def pin(
    name: Name,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REFERENCE", help="REGISTRY/REPOSITORY@sha256:…, as `build --push` prints it.", show_default=False
        ),
    ],
    insecure: Insecure = False,
) -> None:
    """Write a pushed image's digest into images/pins.toml: profiles without `image` use `train` from there.

    Refused: a digest that is not there, an image from another uv.lock, and one from a stand-in base.
    """
    from openrs.images import pinning, pins, registry

    pinning.check(name, reference)
    pins.write(name, pinning.pushed(name, reference, registry.look_up(reference, insecure)))
    print(f"{name} = {reference}, in {pins.path()}")


@app.command()
def fetch(
    cluster: ClusterName,
    layout: Annotated[
        Path | None,
        typer.Option(
            "--layout",
            metavar="DIR",
            help="An OCI layout with the image, in place of its registry.",
            show_default=False,
        ),
    ] = None,
    insecure: Insecure = False,
    json: Json = False,
) -> None:
    """Bring a Slurm profile's image to its shared root, once a digest, in the form that its container runtime starts."""
    from openrs.cli.output import now_and_then, print_json, say
    from openrs.images.fetch import fetch as bring
    from openrs.spec.load import load_cluster

    profile = load_cluster(cluster)
    with now_and_then(lambda: f"fetching {profile.image}"):
        record = bring(profile, layout, insecure, say)
    if json:
        print_json(record)
    else:
        print(record["directory"])


def described(image: Image) -> dict[str, Any]:
    """Digest, sizes and labels, for JSON."""
    layers = [{"digest": layer.digest, "bytes": layer.size, "made_by": layer.made_by} for layer in image.layers]
    return {"digest": image.digest, "bytes": image.size, "layers": layers, "labels": image.labels}


def show(image: Image) -> None:
    """The layers, for a person."""
    from openrs.report.text import table

    rows = [(layer.digest[:19], megabytes(layer.size), step_of(layer.made_by)) for layer in image.layers]
    print(table(("LAYER", "SIZE", "STEP"), rows, right=(1,)))


def step_of(made_by: str) -> str:
    """A step of the Containerfile in at most 60 characters."""
    return made_by.replace("/bin/sh -c ", "").replace("#(nop) ", "").strip()[:60]


def megabytes(size: int) -> str:
    """`151 MB`, of a million bytes, as registries count."""
    return f"{size / 1e6:.1f} MB"
