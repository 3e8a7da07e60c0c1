"""Evaluations beside a run's own: more cells of its checkpoints, models as they are, and checkpoints as they land."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openrs import plan as planning
from openrs.engines import RemoteEngine, engine_for
from openrs.errors import BadInput
from openrs.launch import alone, own_benchmarks, send_more, spec_of
from openrs.runs import record
from openrs.runs.directory import RunDirectory
from openrs.runs.files import read_object
from openrs.spec.cluster import Cluster
from openrs.spec.evaluation import ModelEvaluation
from openrs.spec.experiment import Experiment, Spec
from openrs.spec.load import load_evaluation, named_benchmarks, validate
from openrs.spec.paths import shortened
from openrs.stage import Cell
from openrs.status import RunStatus, finished_cells, jobs, stage_states
from openrs.training.checkpoint import complete_in

BASE = "base"
"""Says the base model where a checkpoint is named."""

_STEP = re.compile(r"(?:step-)?0*([1-9][0-9]{0,8})")


def evaluate_run(
    runs: Path,
    run: str,
    checkpoints: Sequence[str],
    benchmarks: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    full: bool = False,
) -> tuple[record.Record, int]:
    """Sends cells of a run's checkpoints that are neither done nor under way; the record, and how many were sent.

    Raises BadInput for checkpoints that are not there, and for benchmarks that nobody knows.
    """
    with alone(runs, run):
        known = record.load(runs, run)
        engine = engine_for(known.cluster)
        spec, names = _with(spec_of(known), benchmarks, RunDirectory(Path(known.dir)).is_complete("train"))
        infos = engine.inspect(list(jobs(known).values()))
        states = stage_states(known, infos)
        steps = [_step(known, spec, name) for name in checkpoints]
        wanted = planning.cells(spec, list(dict.fromkeys(steps)), full=full, seeds=seeds)
        wanted = [cell for cell in wanted if cell.benchmark in names]
        taken: set[str] = set()
        for name, (_, sent) in known.newest().items():
            info = infos.get(sent.handle)
            taken |= finished_cells(known, sent, info) if info is not None else set()
            taken |= set() if states[name].state.ended else {cell.path for cell in sent.cells}
        directory = RunDirectory(Path(known.dir))
        todo = [cell for cell in wanted if cell.path not in taken and directory.cell(cell) is None]
        if not todo:
            return known, 0
        number = max([0, *directory.submissions()]) + 1
        stages = planning.cell_stages(f"extra-{number}", todo, [], spec, known.cluster)
        return send_more(known, runs, spec, planning.assemble(spec, known.cluster, stages)), len(todo)


def example(runs: Path, run: str) -> str:
    """What may stand behind `--checkpoint` for this run."""
    spec = spec_of(record.load(runs, run))
    if not isinstance(spec, Experiment):
        return f"{run} evaluates a model, and `--checkpoint {BASE}` evaluates it further"
    steps = [planning.checkpoint_id(step) for step in sorted(spec.evaluation.at_steps)]
    return f"{BASE}, or a step such as {steps[-1]} of {run}" if steps else f"{BASE}; {run} has no evaluation.at_steps"


def _with(spec: Spec, benchmarks: Sequence[str], trained: bool) -> tuple[Spec, set[str]]:
    """The spec with these benchmarks too, and their names: all that it has where none are given.

    While it trains, a run's spec is what its checkpoints are held against. Raises BadInput.
    """
    have = {benchmark.name for benchmark in spec.evaluation.benchmarks}
    if not benchmarks:
        return spec, have
    # A run's own benchmark need be no shipped one, and has no file any more.
    entries = named_benchmarks([name for name in benchmarks if name not in have])
    names = {name for name in benchmarks if name in have} | {entry["name"] for entry in entries}
    new = [entry for entry in entries if entry["name"] not in have]
    if not new:
        return spec, names
    if isinstance(spec, Experiment) and not trained:
        raise BadInput(
            f"--benchmarks {new[0]['name']}: not one of the run's own ({', '.join(have) or 'it has none'}), and others can be "
            f"added only when training is complete"
        )
    content = spec.model_dump(mode="json")
    content["evaluation"]["benchmarks"] += new
    return validate(type(spec), content, "--benchmarks"), names


def _step(known: record.Record, spec: Spec, name: str) -> int | None:
    """The step of a checkpoint's name, None for the base model. Raises BadInput where it is not there."""
    if name == BASE or name in {planning.model_id(model) for model in spec.models}:
        return None
    match = _STEP.fullmatch(name)
    directory = RunDirectory(Path(known.dir))
    remote = isinstance(engine_for(known.cluster), RemoteEngine)
    there = sorted(spec.evaluation.at_steps)
    if not remote:
        there = sorted({*there} & {*_complete_steps(directory)})
    if match is None or int(match[1]) not in there:
        names = ", ".join([BASE, *map(planning.checkpoint_id, there)])
        why = "" if there or not isinstance(spec, Experiment) else "; no checkpoint of evaluation.at_steps is complete"
        raise BadInput(f"--checkpoint {shortened(name)!r}: there is {names}{why}")
    return int(match[1])


def _complete_steps(directory: RunDirectory) -> list[int]:
    """Steps of the checkpoints that are complete; none while the storage does not answer."""
    try:
        return complete_in(directory.checkpoints)
    except OSError:
        return []


def model_evaluation(
    model: str,
    cluster: Cluster,
    benchmarks: Sequence[str],
    revisions: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    full: bool = False,
    overrides: Sequence[str] = (),
) -> ModelEvaluation:
    """The spec of evaluating a model of the Hub, some of its revisions, or a directory. Raises BadInput."""
    path = Path(model).expanduser()
    raw: dict[str, Any]
    if path.is_dir():
        raw = {"type": "path", "path": str(path.absolute())}
        dtype = (read_object(path / "config.json") or {}).get("torch_dtype")
        if dtype in ("bfloat16", "float16") and _gpus(cluster):
            raw["dtype"] = dtype
    elif model.count("/") == 1 and not model.startswith((".", "/", "~")):
        raw = {"type": "hub", "name": model, "revision": (list(revisions) or ["main"])[0]}
    else:
        raise BadInput(
            f"{shortened(model)!r} is neither a run, nor a directory with a model, nor a repository of the Hub (organisation/name)"
        )
    name = re.sub(r"[^a-z0-9._-]+", "-", path.name.lower()).strip("-._")[:63] or "model"
    entries = named_benchmarks(benchmarks)
    for entry in entries:
        if seeds is not None:
            entry["seeds"], entry["full_seeds"] = list(seeds), None
        elif not full:
            entry["full_seeds"] = None
    evaluation = {"runner": "lighteval", "benchmarks": entries, "resources": _resources(cluster)}
    spec = {"name": name, "title": f"Evaluation of {model}", "model": raw, "evaluation": evaluation}
    return load_evaluation({**spec, "revisions": list(revisions)}, list(overrides))


def _gpus(cluster: Cluster) -> int:
    from openrs.runs.provenance import gpus

    return 1 if cluster.engine != "local" or gpus("name") else 0


def _resources(cluster: Cluster) -> dict[str, int]:
    return {
        "gpus": _gpus(cluster),
        "cpus": 8 if _gpus(cluster) else 1,
        "memory_gb": 64 if _gpus(cluster) else 8,
        "minutes": 720,
    }


def land(runs: Path, known: record.Record, status: RunStatus | None = None) -> record.Record:
    """Sends the cells of checkpoints that have become complete, of a run that was sent with `--as-they-land`.

    `status` is needed only where the checkpoints are out of sight.
    """
    spec = spec_of(known)
    landed = _landed(known, spec, status) if known.as_they_land and isinstance(spec, Experiment) else {}
    if not landed:
        return known
    with alone(runs, known.run):
        known = record.load(runs, known.run)
        landed = _landed(known, spec, status)
        stages = [
            stage
            for step, cells in landed.items()
            for stage in planning.cell_stages(f"eval-{step:06d}", cells, [], spec, known.cluster)
        ]
        return send_more(known, runs, spec, planning.assemble(spec, known.cluster, stages)) if stages else known


def _landed(known: record.Record, spec: Spec, status: RunStatus | None) -> dict[int, list[Cell]]:
    """Step → its cells that have never been sent, of each step whose checkpoint is complete."""
    directory = RunDirectory(Path(known.dir))
    own = own_benchmarks(known, spec)
    every = [cell for one in known.submissions for stage in one.stages for cell in stage.cells]
    # As they would be sent now: with another openrs a cell may have another path, and is the same cell.
    sent = {now.path for cell in every if (now := planning.current_cell(spec, cell)) is not None}
    waiting: dict[int, list[Cell]] = {}
    for step in sorted(spec.evaluation.at_steps):
        cells = [cell for cell in planning.cells(spec, [step]) if cell.benchmark in own and cell.path not in sent]
        if cells:
            waiting[step] = cells
    if not waiting:
        return {}
    if isinstance(engine_for(known.cluster), RemoteEngine):
        # Its files are out of sight, and a checkpoint is written while training goes on: the trainer says which are there.
        if status is None:
            return {}
        over = any(stage.name == "train" and stage.state == "SUCCEEDED" for stage in status.stages)
        return {step: cells for step, cells in waiting.items() if over or status.saved >= step}
    there = set(_complete_steps(directory))
    return {step: cells for step, cells in waiting.items() if step in there}
