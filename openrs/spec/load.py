"""From a name or a YAML file, overrides and `openrs.toml` to a checked Experiment or Cluster."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from openrs.errors import BadInput
from openrs.spec import benchmarks
from openrs.spec.base import Strict
from openrs.spec.cluster import Cluster
from openrs.spec.evaluation import ModelEvaluation
from openrs.spec.experiment import Experiment
from openrs.spec.explain import explain, nearest
from openrs.spec.paths import expand, shortened
from openrs.spec.raw import MAX_DEPTH, anchor_paths, existing_file, merge, parse_yaml, read_yaml

PACKAGE = Path(__file__).resolve().parent.parent
EXPERIMENTS = PACKAGE / "experiments"
CLUSTERS = PACKAGE / "clusters"

MAX_EXTENDS = 16


def shipped_experiments() -> list[str]:
    """Names of the experiments in the package, sorted."""
    return sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        return existing_file(name, Path(), "experiment file")
    path = EXPERIMENTS / f"{name}.yaml"
    if name not in shipped_experiments():
        raise BadInput(
            f"unknown experiment {shortened(name)!r}{nearest(name, shipped_experiments())}; `openrs list` shows all, or name a YAML file"
        )
    return path


def _raw(name: str, relative_to: Path | None = None, trail: tuple[Path, ...] = ()) -> dict[str, Any]:
    if relative_to is not None and (name.endswith((".yaml", ".yml")) or os.sep in name):
        name = name if name.startswith("~") else str(relative_to / name)
    path = _find(name)
    if len(trail) > MAX_EXTENDS and path not in trail:
        raise BadInput(f"{trail[0]}: more than {MAX_EXTENDS} extends, one after the other; merge some of the files")
    if path in trail:
        raise BadInput(f"{trail[0]}: extends comes back to itself ({' → '.join(p.name for p in (*trail, path))})")
    content = read_yaml(path)
    content.pop("$schema", None)
    parent = content.pop("extends", None)
    content = anchor_paths(_with_benchmarks(content, path.parent, str(path)), path.parent, str(path))
    if parent is None:
        return content
    if not isinstance(parent, str):
        raise BadInput(f"{path}: extends must be the name of an experiment or a YAML file, not {parent!r}")
    merged: dict[str, Any] = merge(_raw(parent, path.parent, (*trail, path)), content)
    return merged


def apply_overrides(raw: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """`raw` with every `a.b=c` laid over it; `c` is YAML, lists are addressed by index, and the model checks the type.

    Another `type` makes another thing: what the old one had is dropped, and what other overrides say of it stays.
    Raises BadInput for an override without `=`, an empty key, an index out of range or a value that is not YAML.
    """
    done: list[tuple[list[str], Any, str]] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        keys = key.split(".")
        if not equals or not key or "" in keys:
            raise BadInput(f"--set {shortened(override)!r}: write it as key.key=value, e.g. --set training.steps=20")
        shown = shortened(key if key.isprintable() else ascii(key))
        if len(keys) > MAX_DEPTH:
            raise BadInput(f"--set {shown}: more than {MAX_DEPTH} levels deep")
        value = parse_yaml(_utf8(text), f"--set {shown}") if text else ""
        value = anchor_paths({keys[-1]: value}, Path.cwd(), f"--set {shown}")[keys[-1]]
        raw = _set(raw, keys, value, shown)
        if keys[-1] == "type":
            for earlier in done:
                if len(earlier[0]) >= len(keys) and earlier[0][: len(keys) - 1] == keys[:-1] and earlier[0] != keys:
                    raw = _set(raw, *earlier)
        done.append((keys, value, shown))
    return raw


def _utf8(text: str) -> str:
    """A word of the command line as UTF-8, whatever the locale: Python keeps what it could not read as surrogates."""
    try:
        return text.encode(errors="surrogateescape").decode()
    except ValueError:
        return text


def _set(target: Any, keys: list[str], value: Any, whole: str) -> Any:
    head, *rest = keys
    if isinstance(target, list):
        index = int(head) if head.isascii() and head.isdecimal() and len(head) < 10 else len(target)
        if index >= len(target):
            raise BadInput(
                f"--set {whole}: {shortened(head)!r} is not an index of a list of {len(target)} (they start at 0)"
            )
        changed = list(target)
        changed[index] = _set(changed[index], rest, value, whole) if rest else value
        return changed
    if target is not None and not isinstance(target, dict):
        raise BadInput(f"--set {whole}: {shortened(head)!r} is inside a plain value, {shortened(str(target))!r}")
    known = target or {}
    if keys == ["type"] and "type" in known and known["type"] != value:
        return {"type": value}
    if rest:
        return {**known, head: _set(known.get(head), rest, value, whole)}
    return {**known, head: merge(known.get(head), value)}


M = TypeVar("M", bound=Strict)


def validate(model: type[M], raw: Any, where: str) -> M:
    """`raw` as a `model`. Raises BadInput with one line that names field, value and way out."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{where}: {explain(model, error)}") from None
    except RecursionError:
        raise BadInput(f"{where}: nested too deep") from None


def load_experiment(name: str, overrides: list[str] | None = None, called: str | None = None) -> Experiment:
    """The experiment with that shipped name or YAML file, `extends` and overrides resolved.

    Raises BadInput, which says of which experiment: `called`, by default its name.
    """
    where = called or f"experiment {name}"
    raw = _with_benchmarks(apply_overrides(_raw(name), overrides or []), Path.cwd(), where)
    if not name.endswith((".yaml", ".yml")) and os.sep not in name:
        raw.setdefault("name", name)
    return validate(Experiment, with_checksums(raw), where)


def load_evaluation(raw: dict[str, Any], overrides: list[str] | None = None) -> ModelEvaluation:
    """The evaluation that `raw` says, overrides laid over it. Raises BadInput."""
    raw = apply_overrides(_with_benchmarks(raw, Path.cwd(), "evaluation"), overrides or [])
    return validate(ModelEvaluation, with_checksums(_with_benchmarks(raw, Path.cwd(), "evaluation")), "evaluation")


def named_benchmarks(names: Sequence[str]) -> list[dict[str, Any]]:
    """Raw benchmarks: shipped ones, or YAML files. Raises BadInput."""
    found: list[dict[str, Any]] = with_checksums([benchmarks.entry(name, Path.cwd(), "--benchmarks") for name in names])
    twice = next((one["name"] for one in found if [other["name"] for other in found].count(one["name"]) > 1), None)
    if twice is not None:
        raise BadInput(f"--benchmarks: {twice} stands there twice")
    return [dict(one) for one in found]


def _with_benchmarks(raw: dict[str, Any], directory: Path, where: str) -> dict[str, Any]:
    """`raw` with its benchmarks as whole mappings; their files are looked for in `directory`."""
    evaluation = raw.get("evaluation")
    if not isinstance(evaluation, dict) or "benchmarks" not in evaluation:
        return raw
    expanded = benchmarks.expand(evaluation["benchmarks"], directory, where)
    return {**raw, "evaluation": {**evaluation, "benchmarks": expanded}}


def with_checksums(raw: Any) -> Any:
    """`raw` with the checksum of every JSON Lines file that can be read here and has none yet."""
    if isinstance(raw, list):
        return [with_checksums(item) for item in raw]
    if not isinstance(raw, dict):
        return raw
    if raw.get("type") == "jsonl" and isinstance(raw.get("path"), str) and raw.get("sha256") is None:
        try:
            if Path(raw["path"]).is_file():
                with open(raw["path"], "rb") as file:
                    return {**raw, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        except (OSError, ValueError):
            pass
        return raw  # the cluster may see it; where nobody does, loading it says so
    return {key: with_checksums(value) for key, value in raw.items()}


def user_config_files() -> list[Path]:
    """Where `openrs.toml` is looked for, the first one that names a cluster wins."""
    files = [Path.cwd() / "openrs.toml"]
    config = os.environ.get("XDG_CONFIG_HOME")
    if not config:
        try:
            config = expand("~/.config")
        except ValueError:  # a user without a home directory has no files there
            return files
    return [*files, Path(config) / "openrs" / "openrs.toml"]


def _toml(path: Path) -> dict[str, Any]:
    """What a TOML file says. Raises BadInput and OSError."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        number = re.search(r"[0-9_]{1000,}", text)
        if number is not None:  # more than Python reads, and no number of ours
            line = text.count("\n", 0, number.start()) + 1
            raise BadInput(f"{path}, line {line}: a number of {len(number[0])} digits; write a shorter one")
        return tomllib.loads(text)
    except UnicodeDecodeError:
        raise BadInput(f"{path}: cannot be read (it is not UTF-8)") from None
    except ValueError as error:
        raise BadInput(f"{path}: not valid TOML ({str(error).splitlines()[0]})") from None
    except RecursionError:
        raise BadInput(f"{path}: nested too deep") from None


def _raw_clusters() -> dict[str, tuple[dict[str, Any], str]]:
    """Profile name → (raw profile, where it stands); the user's own before the shipped ones."""
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for path in user_config_files():
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                continue
            content = _toml(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise BadInput(f"{shortened(str(path))}: cannot be read ({error.strerror})") from None
        clusters = content.get("clusters", {})
        if not isinstance(clusters, dict) or not all(isinstance(profile, dict) for profile in clusters.values()):
            raise BadInput(f"{path}: clusters must be tables, e.g. [clusters.mine]")
        unknown = [key for key in content if key != "clusters"]
        if unknown:
            raise BadInput(f"{path}: unknown table {unknown[0]!r}{nearest(unknown[0], ['clusters'])}")
        for name, profile in clusters.items():
            found.setdefault(name, (profile, str(path)))
    for path in sorted(CLUSTERS.glob("*.yaml")):
        found.setdefault(path.stem, (read_yaml(path), str(path)))
    return found


def cluster_names() -> list[str]:
    """Names of all profiles known here, sorted."""
    return sorted(_raw_clusters())


def load_cluster(name: str) -> Cluster:
    """The profile with that name, from `openrs.toml` or the package. Raises BadInput."""
    profiles = _raw_clusters()
    known = ", ".join(sorted(profiles))
    if not name:
        raise BadInput(f"--cluster is empty; known are {known}")
    if name not in profiles:
        shown = shortened(name)
        raise BadInput(
            f"unknown cluster {shown!r}{nearest(name, list(profiles))}; known are {known}; "
            f"add your own to openrs.toml as [clusters.{shown}]"
        )
    raw, where = _resolve_cluster(name, profiles, ())
    cluster = validate(Cluster, {**raw, "name": name}, f"cluster {name} in {where}")
    foreign = cluster.foreign()
    if foreign is not None:
        field, engine = foreign
        raise BadInput(
            f"cluster {name} in {where}: {field} is for {engine}, and the engine is {cluster.engine}; leave it out, or extend "
            f"a profile of {engine}"
        )
    if cluster.image is None and (cluster.engine == "kubernetes" or cluster.container is not None):
        from openrs.images.pins import pinned

        cluster = cluster.model_copy(update={"image": pinned("train")})
    return cluster


def _resolve_cluster(
    name: str, profiles: dict[str, tuple[dict[str, Any], str]], trail: tuple[str, ...]
) -> tuple[dict[str, Any], str]:
    raw, where = profiles[name]
    raw = {key: value for key, value in raw.items() if key != "$schema"}
    called = raw.pop("name", name)
    if called != name:
        raise BadInput(
            f"cluster {name} in {where}: name: unknown key; a profile is called as its table is, here {name!r}, not {called!r}"
        )
    shipped = CLUSTERS / f"{name}.yaml"
    parent = raw.pop("extends", name if shipped.is_file() and where != str(shipped) else None)
    if parent is None:
        return raw, where
    if parent == name and shipped.is_file() and where != str(shipped):
        base = read_yaml(shipped)
    elif not isinstance(parent, str) or parent not in profiles:
        raise BadInput(
            f"cluster {name} in {where}: extends unknown profile {shortened(str(parent))!r}{nearest(str(parent), list(profiles))}; "
            f"known are {', '.join(sorted(profiles))}"
        )
    elif parent in (*trail, name):
        raise BadInput(
            f"cluster {name} in {where}: extends comes back to itself ({' → '.join((*trail, name, parent))})"
        )
    else:
        base, _ = _resolve_cluster(parent, profiles, (*trail, name))
    merged: dict[str, Any] = merge(base, raw)
    return merged, where
