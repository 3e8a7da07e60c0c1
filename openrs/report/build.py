"""Everything that a report says, before it is laid out: from run directories and published numbers, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openrs.errors import BadInput
from openrs.evaluation import statistics as st
from openrs.report.cells import EXAMPLES, Found, example_cells, read_cells
from openrs.report.history import History, read_history, without_result
from openrs.report.measure import Alike, Measured, along_steps, measure
from openrs.report.published import BASE, Score, again, canonical_benchmark, paper_scores, single
from openrs.report.verdict import Best, Verdict, best_of, selected, verdicts
from openrs.runs import record
from openrs.spec.base import RUN_ID
from openrs.spec.explain import nearest
from openrs.spec.paths import shortened

EXAMPLE = "example:"
NO_BASE = "the base model"
RELEASED = {"exp1": ("Open-RS1", 100), "exp2": ("Open-RS2", 50), "exp3": ("Open-RS3", 50)}
"""Experiment → the paper's model, and the step that it released."""


@dataclass(frozen=True)
class Source:
    """Where a report reads from."""

    name: str
    directory: Path | None
    """None for an example."""


@dataclass(frozen=True)
class Trend:
    """Whether later checkpoints of a benchmark differ from earlier ones that were evaluated alike."""

    alike: Alike
    title: str
    """The benchmark, with what sets these checkpoints apart where others on it are not like them."""
    split: st.Split
    adjusted: float
    """p after Holm over all such tests of the run."""


@dataclass
class Part:
    """One run."""

    name: str
    history: History
    measured: list[Measured]
    baseline: str
    chosen: list[Measured]
    how_chosen: str
    verdicts: list[Verdict]
    best: list[Best]
    trends: list[Trend]
    missing: list[str]
    aliases: dict[str, str] = field(default_factory=dict)
    """Series → the paper's model."""


@dataclass
class Report:
    """What is laid out."""

    parts: list[Part]
    pooled: bool


def resolve(runs: Path, name: str) -> Source:
    """The source that a name on the command line means. Raises BadInput."""
    if name.startswith(EXAMPLE):
        example = name.removeprefix(EXAMPLE)
        known = sorted(path.name.replace("_", "-") for path in EXAMPLES.iterdir() if path.is_dir())
        if example not in known:
            raise BadInput(f"{shortened(name)}: no such example; there is {', '.join(EXAMPLE + one for one in known)}")
        return Source(example, None)
    if "/" in name and Path(name).is_dir():
        return Source(Path(name).resolve().name, Path(name))
    there = runs / name
    loose = RUN_ID.fullmatch(name) is not None and not (there / record.RECORD).exists()
    if loose and ((there / record.IMPORTED).is_file() or (there / "eval").is_dir()):
        return Source(name, there)
    known_run = record.load(runs, name)
    directory = Path(known_run.dir)
    if not directory.is_dir():
        raise BadInput(
            f"run {name}: its directory {shortened(str(directory))} cannot be seen from here; `openrs pull {name}` copies it"
        )
    return Source(name, directory)


def build(
    runs: Path,
    names: Sequence[str],
    baseline: str | None = None,
    checkpoint: str | None = None,
    pool_hardware: bool = False,
) -> Report:
    """Reads the runs and compares each with its baseline. Raises BadInput for names that mean nothing."""
    sources = [resolve(runs, name) for name in dict.fromkeys(names)]
    given = _baseline(runs, baseline, pool_hardware) if baseline else None
    parts = [_part(source, given, checkpoint, pool_hardware) for source in sources]
    if checkpoint is not None and not any(part.chosen for part in parts):
        known = sorted({one.checkpoint for part in parts for one in part.measured})
        hint = f"; there are {', '.join(known[:12])}" if known else "; nothing was evaluated"
        raise BadInput(f"--checkpoint {shortened(checkpoint)!r}: not evaluated in {', '.join(names)}{hint}")
    return Report(parts, pool_hardware)


Baseline = tuple[str, dict[str, list[Measured] | Score]]


def _baseline(runs: Path, name: str, pool: bool) -> Baseline:
    published = {score.model.lower(): score.model for score in (*again(), *paper_scores())}
    if name.lower() in published:
        model = published[name.lower()]
        return model, _published(model)
    run, _, checkpoint = name.partition("/") if not Path(name).is_dir() else (name, "", "")
    try:
        source = resolve(runs, run)
    except BadInput:
        hint = nearest(name, [*record.run_names(runs), *published.values()])
        raise BadInput(
            f"--baseline {shortened(name)!r}: neither a run below {runs} nor a model with published scores{hint}"
        ) from None
    history = read_history(source.directory) if source.directory else History()
    measured = _measured(_read(source), history, pool)
    if not measured:
        raise BadInput(f"--baseline {name}: nothing of it has been evaluated")
    rows = [one for one in measured if one.checkpoint == checkpoint] if checkpoint else _base_of(measured)
    if not rows:
        known = sorted({one.checkpoint for one in measured})
        raise BadInput(f"--baseline {name}: no such checkpoint; there are {', '.join(known[:8])}")
    return f"{source.name} ({rows[0].name})", _by_benchmark(rows)


def _base_of(measured: list[Measured]) -> list[Measured]:
    """The base model's results, else those of the last step."""
    rows = [one for one in measured if one.step is None]
    if rows:
        return rows
    last = max(one.step for one in measured if one.step is not None)
    return [one for one in measured if one.step == last]


def _by_benchmark(rows: Sequence[Measured]) -> dict[str, list[Measured] | Score]:
    found: dict[str, list[Measured]] = {}
    for one in rows:
        found.setdefault(canonical_benchmark(one.benchmark) or one.benchmark, []).append(one)
    return {**found}


def _published(model: str) -> dict[str, list[Measured] | Score]:
    scores: dict[str, list[Measured] | Score] = {s.benchmark: s for s in paper_scores() if s.model == model}
    return {**scores, **{s.benchmark: s for s in again() if s.model == model}}


def _read(source: Source) -> Found:
    return example_cells(source.name) if source.directory is None else read_cells(source.directory, source.name)


def _measured(found: Found, history: History, pool: bool) -> list[Measured]:
    measured = measure(found.cells, pool)
    if history.untrained:  # models as they are: none of them is the others' base
        measured = [replace(one, label=one.model or one.checkpoint) for one in measured]
    return measured


def _part(source: Source, given: Baseline | None, checkpoint: str | None, pool: bool) -> Part:
    found = _read(source)
    history = read_history(source.directory) if source.directory else History()
    measured = _measured(found, history, pool)
    missing = list(found.aside)
    imported = source.directory is not None and (source.directory / record.IMPORTED).is_file()
    if source.directory is not None and not imported:
        missing += [*history.missing, *without_result(source.directory, measured)]
    chosen, how = _chosen(measured, source, checkpoint)
    name, base = given or ((NO_BASE, {}) if history.untrained else _own(measured, source))
    lookup = {
        one.benchmark: base[key]
        for one in measured
        if (key := canonical_benchmark(one.benchmark) or one.benchmark) in base
    }
    lookup.update({one.benchmark: base[one.benchmark] for one in measured if one.benchmark in base})
    if not measured:
        missing.append("no finished evaluation cell: nothing can be said about accuracy")
    elif not base:
        why = "" if history.untrained else "the base model was not evaluated; "
        missing.append(f"no baseline: {why}--baseline names a run or a published model")
    if measured and not any(one.outcomes is not None for one in measured):
        missing.append(
            "no cell holds outcomes by problem: comparisons are of independent shares, which is conservative"
        )
    missing += _apart(measured)
    best = best_of(measured)
    found_verdicts = verdicts([one for one in chosen if one.step is not None or given], lookup, name, pool)
    if source.directory is None:  # the paper chose after seeing the scores
        found_verdicts = selected(found_verdicts, best, lookup)
    return Part(
        source.name,
        history,
        measured,
        name,
        chosen,
        how,
        found_verdicts,
        best,
        _trends(measured),
        list(dict.fromkeys(missing)),
        _aliases(measured, history, source),
    )


def _apart(measured: list[Measured]) -> list[str]:
    """Results on one benchmark, of a base model or of all trained checkpoints, that are not put together, and why."""
    groups: dict[tuple[str, str], list[Alike]] = {}
    for one in measured:
        where = f"{one.name} on {one.title}" if one.step is None else one.title
        groups.setdefault((where, one.benchmark), []).append(one.alike)
    found = []
    for (where, _), group in groups.items():
        if len({one.hardware for one in group}) > 1:
            found.append(f"{where} ran on several kinds of hardware; they are kept apart (--pool-hardware pools them)")
        if len({(one.data, one.problems) for one in group}) > 1:
            found.append(f"{where}: the data set changed between its cells; they are kept apart")
        elif len({one.settings for one in group}) > 1:
            found.append(f"{where} was sampled with several settings; they are kept apart")
    return found


def _own(measured: list[Measured], source: Source) -> Baseline:
    rows = [one for one in measured if one.step is None]
    if rows:
        return "the base model", _by_benchmark(rows)
    if source.directory is None:
        return "the base model as others evaluated it", _published(BASE)
    return NO_BASE, {}


def _chosen(measured: list[Measured], source: Source, checkpoint: str | None) -> tuple[list[Measured], str]:
    if checkpoint is not None:
        rows = [one for one in measured if checkpoint in (one.checkpoint, str(one.step))]
        return rows, f"checkpoint {checkpoint}, as asked for"
    if source.directory is None:
        rows = [one for one in measured if (one.series, one.step) == ("exp3", 50)]
        return rows, "the checkpoint that the paper chose, after seeing the scores of 21"
    last: dict[str, int] = {}
    for one in measured:
        if one.step is not None:
            last[one.series] = max(last.get(one.series, 0), one.step)
    if not last:
        return measured, "the model that was evaluated"
    rows = [one for one in measured if one.step is not None and last[one.series] == one.step]
    return rows, "the last step that was evaluated, which is no choice by score"


def _trends(measured: list[Measured]) -> list[Trend]:
    found: list[tuple[Alike, str, st.Split]] = []
    for title, rows in along_steps(measured):
        if len(rows) >= 6:
            try:
                steps = [one.step or 0 for one in rows]
                split = st.best_split(steps, [one.mean for one in rows], [one.series for one in rows])
            except ValueError:
                continue
            found.append((rows[0].alike, title, split))
    adjusted = st.holm([split.p for *_, split in found])
    return [Trend(*one, p) for one, p in zip(found, adjusted, strict=True)]


def _aliases(measured: list[Measured], history: History, source: Source) -> dict[str, str]:
    """Which series are the paper's own models: experiments of that name."""
    experiment = str((history.spec or {}).get("name"))
    return {
        one.series: RELEASED[key][0]
        for one in measured
        for key in (one.series if source.directory is None else experiment,)
        if key in RELEASED
    }


def own_scores(report: Report) -> list[Score]:
    """Our evaluations of the paper's models and of its base model, for the claims ledger; examples are not ours."""
    found = []
    for part in report.parts:
        for one in part.measured:
            benchmark = canonical_benchmark(one.benchmark)
            released = part.aliases.get(one.series)
            if benchmark is None or released is None or part.history.spec is None:
                continue
            wanted = next(step for model, step in RELEASED.values() if model == released)
            model = BASE if one.step is None else released if one.step == wanted else None
            if model:
                found.append(
                    Score(
                        model,
                        benchmark,
                        one.mean,
                        f"run {part.name}",
                        one.problems,
                        one.sd,
                        len(one.seeds),
                        one.hardware,
                    )
                )
    return found


def reevaluations(model: str, benchmark: str) -> list[Score]:
    """What others got for a published model."""
    return [score for score in (*again(), *single()) if (score.model, score.benchmark) == (model, benchmark)]


def report_json(report: Report) -> dict[str, Any]:
    """`openrs report --json`."""
    return {
        "pooled_hardware": report.pooled,
        "runs": [
            {
                "run": part.name,
                "baseline": part.baseline,
                "how_chosen": part.how_chosen,
                "verdicts": [one.json() for one in part.verdicts],
                "results": [one.json() for one in part.measured],
                "best_of": [one.json() for one in part.best],
                "later_steps": [
                    {
                        "title": one.title,
                        **one.alike.json(),
                        "after_step": one.split.after,
                        "change": one.split.gain,
                        "p": one.split.p,
                        "p_holm": one.adjusted,
                        "splits": one.split.splits,
                        "checkpoints": one.split.checkpoints,
                    }
                    for one in part.trends
                ],
                "gpu_hours": part.history.gpu_hours,
                "dollars": part.history.dollars,
                "attempts": len(part.history.attempts),
                "repeated_steps": part.history.repeated_steps,
                "repeated_seconds": part.history.repeated,
                "missing": part.missing,
            }
            for part in report.parts
        ],
    }
