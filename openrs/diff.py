"""What a submit now would change against what a run was first sent with."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from openrs.engines import Artifacts, Engine, RemoteEngine, engine_for
from openrs.errors import BadInput
from openrs.launch import place_of, spec_of
from openrs.plan import make_plan
from openrs.runs.files import read_object
from openrs.runs.record import Record
from openrs.spec.canonical import pretty
from openrs.spec.change import changed
from openrs.spec.experiment import Experiment
from openrs.spec.load import PACKAGE, load_cluster, load_experiment
from openrs.stage import read_spec


@dataclass(frozen=True)
class Change:
    """A file that would be another one."""

    name: str
    diff: str
    """Unified (diff(1)), from what there is to what there would be."""


@dataclass(frozen=True)
class Code:
    """Hashes of the package that the jobs run."""

    sent: str | None
    """None where it is not on record."""
    now: str


@dataclass(frozen=True)
class Difference:
    """What a submit now would send, beside the first sending of a run, which was of all its stages."""

    engine: Engine
    artifacts: Artifacts
    """What would be sent now."""
    files: list[Change]
    code: Code | None
    """None where it is the same, or where the jobs' image holds the code."""
    since: list[str]
    """Fields that a `resume` has changed since that first sending, which is none of the above."""


@dataclass(frozen=True)
class OnServer:
    """What would be sent now, beside what the server has."""

    changes: list[Change]
    gone: list[str]
    """Files of which the server has nothing (any more)."""


def compare(record: Record, runs: Path, overrides: list[str]) -> Difference:
    """Renders the run's experiment, with further overrides, for its cluster's profile as it is now. Asks no scheduler.

    Raises BadInput.
    """
    spec = spec_of(record)
    if not isinstance(spec, Experiment):
        raise BadInput(
            f"run {record.run} evaluates a model, and there is no experiment to compare; {record.dir}/spec.json says what was sent"
        )
    if record.asked is None or not record.submissions:
        raise BadInput(
            f"run {record.run}: what was asked for is not on record, an older openrs sent it; `openrs render` shows what would "
            f"be sent now, {record.dir}/submission holds what was"
        )
    experiment = load_experiment(record.asked.experiment, [*record.asked.overrides, *overrides])
    cluster = load_cluster(record.cluster.name)
    engine, first = engine_for(cluster), record.submissions[0]
    place = place_of(cluster, runs, record.run, first.number)
    artifacts = engine.render(experiment, make_plan(experiment, cluster, hold_steps=record.as_they_land), place)
    now = {"spec.json": pretty(experiment)} | artifacts.files
    directory = Path(record.dir) / "submission" / str(first.number)
    was = {name: _text(directory / name) for name in now}
    was["spec.json"] = was["spec.json"] or _text(Path(record.dir) / "spec.json")
    dropped = {stage.name for stage in first.stages} - {stage.name for stage in artifacts.plan.stages}
    kinds = {"cells.json"} | {Path(name).name for name in now}
    was |= {f"{stage}/{kind}": _text(directory / stage / kind) for stage in sorted(dropped) for kind in sorted(kinds)}
    files = [_change(name, was[name], now.get(name, ""), "sent") for name in was if was[name] != now.get(name, "")]
    code = None if isinstance(engine, RemoteEngine) else _code(directory)
    return Difference(engine, artifacts, files, code, _since(directory / "spec.json", spec))


def on_server(difference: Difference) -> OnServer | None:
    """The same against what the server has; None for engines without objects on a server. Raises OpenRSError."""
    if not isinstance(difference.engine, RemoteEngine):
        return None
    pairs = difference.engine.changes(difference.artifacts)
    gone = [name for name, (has, _) in pairs.items() if "kind:" not in has]
    changes = [_change(name, *pair, "server") for name, pair in pairs.items() if name not in gone]
    return OnServer(changes, gone)


def _code(submission: Path) -> Code | None:
    from openrs.runs import provenance

    sent = (read_object(submission / "source.json") or {}).get("code")
    code = Code(sent, provenance.tree_hash(PACKAGE))
    return None if code.sent == code.now else code


def _since(first: Path, newest: Experiment) -> list[str]:
    """Fields that differ between the first sending's spec and the newest one's, but for the benchmarks: `openrs eval` adds some."""
    if not first.is_file():
        return []
    return [field for field in changed(read_spec(first), newest) if field != "evaluation.benchmarks"]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _change(name: str, was: str, now: str, where: str) -> Change:
    before, after = (f"{where}/{name}" if was else "/dev/null"), (f"now/{name}" if now else "/dev/null")
    lines = difflib.unified_diff(was.splitlines(True), now.splitlines(True), before, after)
    return Change(name, "".join(line if line.endswith("\n") else f"{line}\n" for line in lines))
