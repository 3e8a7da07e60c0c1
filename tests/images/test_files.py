"""What stands in images/ and .github/: read as text, since most of it runs where the tests do not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from openrs.images import requirements
from openrs.images.build import IMAGES, SHOWN, Recipe, arguments, containerfile, labels
from openrs.images.pins import Pins, pins

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CONTAINERFILE = (ROOT / "images" / "Containerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Containerfile and its text, continued lines joined, comments left out."""
    lines = [line for line in CONTAINERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Name of a stage → what it begins from, and its instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = (base, [])
        elif found:
            found[list(found)[-1]][1].append((word, rest))
    return found


def test_every_base_is_an_argument_or_a_stage() -> None:
    known = set[str]()
    for name, (base, _) in stages().items():
        assert base in known or base in ("${DEBIAN}", "${CUDA}"), f"{name} begins from {base}"
        known.add(name)
    assert known >= set(IMAGES)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_not_root_and_starts_no_shell(name: str) -> None:
    _, steps = stages()[name]
    assert ("USER", "1000:1000") in steps
    word, entry = steps[-1]
    assert word == "ENTRYPOINT" and entry.startswith('["/opt/openrs/bin/')
    assert not any(word in ("CMD", "SHELL") for word, _ in steps)
    last = next(rest for word, rest in reversed(steps) if word == "COPY")
    assert last == "--from=openrs /install /opt/openrs", "a change of the code is the last layer, and nothing else"
    assert not any(word == "RUN" for word, _ in steps), "no image holds what a step of its own leaves behind"


def test_syntax_is_what_buildah_1_28_and_buildkit_both_know() -> None:
    for word, rest in instructions():
        assert word in ("ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "ENTRYPOINT"), word
        assert "<<" not in rest, f"here-document: {rest}"
        for option in re.findall(r"^(?:--[a-z]+=?\S* )+", f"{rest} ")[:1]:
            allowed = {"COPY": ("--from=", "--chmod="), "RUN": ("--mount=type=secret", "--mount=type=cache")}
            assert all(each.startswith(allowed.get(word, ())) for each in option.split()), f"{word} {option}"


def test_packages_come_by_hash_only() -> None:
    text = CONTAINERFILE + (ROOT / "images" / "install.sh").read_text()
    for match in re.finditer(r"pip (?:install|wheel)[^\n]*(?:\\\n[^\n]*)*", text):
        assert "--require-hashes" in match[0] or "--no-index" in match[0], match[0]
    for name in requirements.FILES:
        content = (ROOT / "images" / "requirements" / f"{name}.txt").read_text()
        found = requirements.blocks(content)
        assert found and all("--hash=sha256:" in block for block in found.values())
        assert not re.search(r"^(-|https?:|git\+)|@ ", content, re.MULTILINE), "options, or packages from elsewhere"


def test_requirements_are_those_of_uv_lock() -> None:
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    if not Path(uv).exists():
        pytest.skip("no uv here; `make setup` installs one")
    for name, text in requirements.export(uv, ROOT).items():
        assert (ROOT / "images" / "requirements" / f"{name}.txt").read_text() == text, f"{name}: make requirements"


def test_versions_of_an_image_are_the_locked_ones() -> None:
    locked = {each["name"]: each["version"] for each in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    for name in IMAGES:
        found = requirements.versions(name)
        assert found and all(locked[package] == version for package, version in found.items())
    assert "torch" not in requirements.versions("cli")
    assert "vllm" not in requirements.versions("smoke") and "torch" in requirements.versions("smoke")
    assert {"vllm", "flash-attn", "deepspeed"} <= set(requirements.versions("train"))
    assert set(requirements.versions("eval")) > set(requirements.versions("train"))


def test_pins_name_where_each_digest_comes_from() -> None:
    assert {"debian", "cuda"} == set(pins().base)
    for base in pins().base.values():
        assert len(base.source) > 20 and len(set(base.digest.removeprefix("sha256:"))) > 8
    with pytest.raises(ValueError, match="digest"):
        Pins.model_validate(
            {
                "snapshot": "20250430T000000Z",
                "base": {"x": {"name": "a", "tag": "b", "digest": "sha256:0", "source": "c"}},
            }
        )


def test_what_a_builder_is_given() -> None:
    recipe = Recipe("train", "docker")
    assert arguments(recipe)["DEBIAN"].endswith(pins().base["debian"].digest)
    assert arguments(recipe)["SNAPSHOT"] == pins().snapshot
    assert {f"dev.openrs.{package}" for package in SHOWN if package != "lighteval"} <= set(labels(recipe))
    assert labels(Recipe("train", "buildah", stand_in=True))["org.opencontainers.image.base.digest"] == "stand-in"
    for name in IMAGES:  # --label would put them on every stage
        stages = re.split(r"^FROM ", containerfile(Recipe(name, "buildah")), flags=re.MULTILINE)
        (labelled,) = (stage for stage in stages if "\nLABEL " in stage)
        assert labelled.partition("\n")[0].endswith(f" AS {name}")
        assert labelled.count("\nLABEL ") == len(labels(Recipe(name, "buildah")))
    wanted = {rest.partition("=")[0] for word, rest in instructions() if word == "ARG"}
    assert set(arguments(recipe)) == wanted - {"MAX_JOBS"}


def test_workflows_are_valid() -> None:
    """Against GitHub's own schema, as check-jsonschema carries it."""
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        *map(str, WORKFLOWS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and len(WORKFLOWS) == 2, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_pin_actions_and_give_few_rights(path: Path) -> None:
    text = path.read_text()
    workflow: dict[str, Any] = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    uses = re.findall(r"uses: (\S+)(.*)", text)
    assert uses
    for action, comment in uses:
        assert re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40}", action), f"{action}: pin it by commit"
        assert re.fullmatch(r" # v\d+(\.\d+)*", comment), f"{action}: say which version that is"
    for job in workflow["jobs"].values():
        assert "timeout-minutes" in job
        for step in job["steps"]:
            # What an outsider may choose (a branch's name, a title) never becomes a part of a script.
            assert not re.search(r"\$\{\{[^}]*(github\.(head_ref|ref_name|event)|inputs)", step.get("run", "")), step
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", "\n".join(re.findall(r"run: (.*)", text)))) <= targets
