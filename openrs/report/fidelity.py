"""The paper's experiments as the paper describes them, as their code shipped, and corrected: what differs, in Markdown.

`python -m openrs.report.fidelity > docs/fidelity.md` (or `make fidelity`). Every value comes from the resolved specs, and
what `as-shipped` means for a reward from that reward's own documentation.
"""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

from openrs import rewards
from openrs.spec.experiment import Experiment
from openrs.spec.load import load_experiment, shipped_experiments

COLUMNS = ("paper", "as-shipped", "corrected")
NOT_COMPARED = ("name", "title", "fidelity")

HEAD = """# Fidelity

<!-- Written by `make fidelity` from the specs in openrs/experiments; edit those. -->

Each experiment of Open-RS ([arXiv 2503.16219](https://arxiv.org/abs/2503.16219)) is there three times: as the paper's text
describes it (`exp3-paper`), bug for bug as the public code of
[knoveleng/open-rs](https://github.com/knoveleng/open-rs) at 2889c47 computes it (`exp3-as-shipped`), and with the known
defects mended (`exp3`, the default). The YAML of each says beside every line where it comes from. The tables show the
fields that are not the same in all three; `–` is a field that this one does not have. What the paper leaves unsaid is
what the corrected one says.
"""

TAIL = """
## What no field of a spec says

The as-shipped variants reproduce the arithmetic of the shipped code, its rewards and its loss (`bnpo` over micro-batches
of 6, log-probabilities at temperature 1 of completions sampled at 0.7), and not its slowness: it generates once for each
micro-batch, four times a step. Nor do they keep vLLM's prefix cache over a change of the weights, as it does: what it
computes then depends on what the cache happens to hold.

The shipped prompt is the recipe's in content, not in wording. The paper counts 42,000 samples; 500 steps of 72 completions
are 36,000.
"""


def document() -> str:
    """The whole of `docs/fidelity.md`."""
    parts = [HEAD]
    for name, versions in families().items():
        parts.append(f"\n## {name}: {versions['corrected'].title.partition(': ')[2]}\n\n")
        parts.append(table(versions))
    parts.append("\n## What `form: as-shipped` computes\n\n")
    for name, model in rewards.specs().items():
        shipped = [part for part in _paragraphs(model) if part.startswith("As shipped")]
        parts += [f"- `{name}`. {' '.join(part.split())}\n" for part in shipped]
    same = [
        name
        for name, model in rewards.specs().items()
        if not any(p.startswith("As shipped") for p in _paragraphs(model))
    ]
    parts.append(f"- {', '.join(f'`{name}`' for name in same)}: no difference is known.\n")
    return "".join([*parts, TAIL])


def families() -> dict[str, dict[str, Experiment]]:
    """Experiment → fidelity → spec, of the experiments that are there in all three."""
    found: dict[str, dict[str, Experiment]] = {}
    for name in shipped_experiments():
        experiment = load_experiment(name)
        found.setdefault(family(name, experiment), {})[experiment.fidelity] = experiment
    return {name: versions for name, versions in found.items() if set(COLUMNS) <= set(versions)}


def family(name: str, experiment: Experiment) -> str:
    """The experiment that this one is a version of: `exp3` for `exp3-as-shipped`."""
    return name.removesuffix(f"-{experiment.fidelity}")


def by_family(experiments: dict[str, Experiment]) -> dict[str, Experiment]:
    """The same experiments in the order of a list: each family together, the corrected one first."""

    def place(name: str) -> tuple[str, bool, str]:
        home = family(name, experiments[name])
        return home, home != name, name

    return {name: experiments[name] for name in sorted(experiments, key=place)}


def table(versions: dict[str, Experiment]) -> str:
    """What differs, a field a row."""
    fields = {column: _flat(versions[column]) for column in COLUMNS}
    names = list(dict.fromkeys(name for column in COLUMNS for name in fields[column]))
    rows = [[name, *(fields[column].get(name, "–") for column in COLUMNS)] for name in names]
    lines = [f"| | {' | '.join(column.replace('-', ' ') for column in COLUMNS)} |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {' | '.join(values)} |" for name, *values in rows if len(set(values)) > 1]
    return "\n".join(lines) + "\n"


def _flat(experiment: Experiment) -> dict[str, str]:
    """Dotted name → value as written. Rewards go by their type, so that their order means nothing."""
    fields: dict[str, str] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{path}.{key}" if path else key)
        else:
            fields[path] = _cell(value)

    content = experiment.model_dump(mode="json", exclude=set(NOT_COMPARED))
    content["rewards"] = {reward.pop("type"): reward for reward in content["rewards"]}
    walk(content, "")
    return fields


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`".replace("|", "\\|") if text else "(empty)"


def _paragraphs(model: type[rewards.RewardSpec]) -> list[str]:
    return (inspect.getdoc(sys.modules[model.__module__]) or "").split("\n\n")


if __name__ == "__main__":
    sys.stdout.write(document())
