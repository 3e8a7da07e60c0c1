"""Problems and models, from wherever a spec says they are. Imports neither torch nor datasets until one is needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from openrs.data import sums
from openrs.errors import BadInput
from openrs.spec.canonical import canonical
from openrs.spec.experiment import Experiment, Spec
from openrs.spec.explain import nearest
from openrs.spec.load import PACKAGE
from openrs.spec.parts import Data, HubData, HubModel, JsonlData, Model

INSIDE_PACKAGE = "openrs:"

GATED = "the Hub gives it only to those who asked; accept its terms and set HF_TOKEN"
NO_REVISION = "no such revision on the Hub"
NO_REPOSITORY = "no such repository on the Hub, or it is private; check the name or set HF_TOKEN"


def load(data: Data) -> list[dict[str, str]]:
    r"""The problems of a data set, in its order: `[{"problem": …, "answer": …}]`, both never empty.

    An answer that is a whole solution is passed on as it is (the verifier finds its `\boxed{}`). A list of one answer
    is that answer. Wrong answers of a multiple choice follow as `wrong-1` and so on. Raises BadInput where the file, the
    column or the rows are not there, or the file is not the one that the spec means.
    """
    if data.type == "sums":
        try:
            return sums.generate(data.split, data.count, data.seed)
        except ValueError as error:
            raise BadInput(f"data (sums): {error}") from None
    rows, source = (_hub_rows(data), f"data set {data.name}") if data.type == "hub" else (_jsonl_rows(data), data.path)
    problems = [_problem(row, data, f"{source}, row {number}") for number, row in enumerate(rows, start=1)]
    if not problems:
        raise BadInput(f"{source}: holds no rows, so there is nothing to train on or to evaluate")
    return problems


def fingerprint(problems: list[dict[str, str]]) -> str:
    """`sha256:` and 64 hex digits over the problems and their order: what was really loaded."""
    return "sha256:" + hashlib.sha256(canonical(problems).encode()).hexdigest()


def model_path(model: Model) -> tuple[str, str | None]:
    """What transformers' `from_pretrained` takes: a repository and its revision, or a directory and None.

    Raises BadInput where a directory holds no model in Hugging Face format.
    """
    if model.type == "hub":
        return model.name, model.revision
    path = Path(model.path)
    if model.path.startswith(INSIDE_PACKAGE):
        path = (PACKAGE / model.path.removeprefix(INSIDE_PACKAGE)).resolve()
        if not path.is_relative_to(PACKAGE):
            raise BadInput(f"model.path = {model.path}: leaves the openrs package; write a plain path instead")
    try:
        there = path.is_dir()
    except OSError as error:
        raise BadInput(f"model.path = {model.path}: cannot be read ({error.strerror})") from None
    if not there:
        raise BadInput(f"model.path = {model.path}: {path} is not a directory on this machine")
    weights = any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*.bin"))
    missing = [
        name
        for name, there in [
            ("config.json", (path / "config.json").is_file()),
            ("model.safetensors", weights),
            ("tokenizer_config.json", (path / "tokenizer_config.json").is_file()),
        ]
        if not there
    ]
    if missing:
        raise BadInput(f"model.path = {model.path}: no model in Hugging Face format, {', '.join(missing)} is missing")
    return str(path), None


def from_hub(spec: Spec) -> list[str]:
    """Names of what a spec takes from the Hub; empty where it needs no fetching."""
    items: list[Model | Data] = [*spec.models, *data_of(spec)]
    return list(dict.fromkeys(item.name for item in items if item.type == "hub"))


def data_of(spec: Spec) -> list[Data]:
    """The data sets of a spec: the training problems, if it trains, and its benchmarks'."""
    training = [spec.data] if isinstance(spec, Experiment) else []
    return [*training, *(benchmark.data for benchmark in spec.evaluation.benchmarks)]


def commit(item: HubModel | HubData) -> str | None:
    """The commit that a revision of the Hub stands for; None where neither the Hub nor the local cache knows."""
    if len(item.revision) == 40 and set(item.revision) <= set("0123456789abcdef"):
        return item.revision
    from huggingface_hub import HfApi, constants

    kind = "model" if isinstance(item, HubModel) else "dataset"
    try:
        info = HfApi().repo_info(item.name, repo_type=kind, revision=item.revision, timeout=10)
    except (
        Exception
    ):  # no network, no such name, no access: the cache may still know, and a name is not worth a failure
        folder = f"{kind}s--{item.name.replace('/', '--')}"
        reference = Path(constants.HF_HUB_CACHE) / folder / "refs" / item.revision
        return reference.read_text().strip() if reference.is_file() else None
    return info.sha


def hub_problem(error: Exception, what: str) -> BadInput | None:
    """The one line for a name or revision that the Hub does not give out; None for all else (a broken network)."""
    from huggingface_hub import constants, errors

    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, errors.GatedRepoError):
            return BadInput(f"{what}: {GATED}")
        if isinstance(chain, errors.RevisionNotFoundError):
            return BadInput(f"{what}: {NO_REVISION}")
        if isinstance(chain, errors.RepositoryNotFoundError):
            return BadInput(f"{what}: {NO_REPOSITORY}")
        offline = constants.HF_HUB_OFFLINE and isinstance(
            chain, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
        )
        if offline or (constants.HF_HUB_OFFLINE and isinstance(chain, ConnectionError)):
            return BadInput(
                f"{what}: not in the cache, and HF_HUB_OFFLINE forbids to download it; "
                f"first run `openrs fetch` for this experiment and cluster where the Hub can be reached"
            )
        chain = chain.__cause__ or chain.__context__
    return None


def _hub_rows(data: HubData) -> Iterable[dict[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    what = f"data set {data.name} at {data.revision}"
    try:
        dataset = datasets.load_dataset(data.name, data.subset, revision=data.revision, split=data.split)
    except Exception as error:
        if isinstance(error, ValueError) and "split" in str(error).lower():
            raise BadInput(f"{what}: has no split {data.split!r} ({' '.join(str(error).split())[:200]})") from None
        problem = hub_problem(error, what) or _not_found(error, what)
        if problem:
            raise problem from None
        raise
    return islice(dataset, data.limit)


def _not_found(error: Exception, what: str) -> BadInput | None:
    """The line for what datasets 3.4.1 does not find. The Hub's error is no cause of its own: only the words are left."""
    if type(error).__name__ != "DatasetNotFoundError":
        return None
    if "gated" in str(error):
        return BadInput(f"{what}: {GATED}")
    return BadInput(f"{what}: {NO_REVISION if 'Revision' in str(error) else NO_REPOSITORY}")


def _jsonl_rows(data: JsonlData) -> Iterable[dict[str, Any]]:
    _check_content(data)
    rows: list[dict[str, Any]] = []
    try:
        with open(data.path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if data.limit is not None and len(rows) >= data.limit:
                    break
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    raise BadInput(f"{data.path}, line {number}: not a JSON object")
                rows.append(row)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise BadInput(f"{data.path}: cannot be read ({reason})") from None
    return rows


def _check_content(data: JsonlData) -> None:
    """Raises BadInput where the file is another one than when the spec was resolved."""
    if data.sha256 is None:
        return
    try:
        with open(data.path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{data.path}: cannot be read ({error.strerror})") from None
    if found != data.sha256:
        raise BadInput(
            f"{data.path}: its content has changed: sha256 {found[:12]}…, and this run was sent with {data.sha256[:12]}…; "
            f"put that file back, or send a new run, whose results will not be mixed with these"
        )


def _problem(row: dict[str, Any], data: HubData | JsonlData, where: str) -> dict[str, str]:
    found = {}
    wrong = [(f"wrong-{number}", column) for number, column in enumerate(data.choices, start=1)]
    for role, column in [("problem", data.problem), ("answer", data.answer), *wrong]:
        if column not in row:
            columns = ", ".join(sorted(row)) or "none"
            raise BadInput(f"{where}: no column {column!r} for the {role}{nearest(column, row)}; it has {columns}")
        found[role] = _text(row[column])
        if not found[role]:
            raise BadInput(f"{where}: column {column!r} is empty, but a {role} is needed")
    return found


def _text(value: Any) -> str:
    """A cell as text. OlympiadBench wraps its one answer in a list, some copies of it in a list written as a string."""
    if isinstance(value, str) and value.startswith("['") and value.endswith("']") and value.count("'") == 2:
        return value[2:-2].strip()
    if isinstance(value, (list, tuple)):
        return _text(value[0]) if len(value) == 1 else ", ".join(map(_text, value))
    if value is None:
        return ""
    return str(value).strip()
