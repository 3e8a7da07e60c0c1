"""Model and data of a spec, at their revisions, into the Hub's cache: `python -m openrs.data.fetch SPEC.json`.

Run where the Hub can be reached; the jobs then find everything in the same cache, with the Hub switched off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openrs.data.load import commit, data_of, hub_problem, load
from openrs.errors import BadInput, OpenRSError
from openrs.spec.canonical import pretty
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Spec
from openrs.spec.load import PACKAGE
from openrs.spec.parts import HubModel
from openrs.stage import read_spec
from openrs.worker.exits import CONFIGURATION, DONE

MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""Weights as safetensors, configuration, tokenizer: not the same weights again in other formats."""


def fetch(spec: Spec) -> Iterator[dict[str, Any]]:
    """Fetches one thing after the other; says of each what it is, its commit, and the seconds that it took.

    What is in the cache already is not downloaded again. Raises BadInput for what the Hub does not give out, and for
    data without the columns that the spec names.
    """
    for model in spec.models:
        if isinstance(model, HubModel):
            yield _timed("model", model.name, model.revision, _model, model)
    seen: set[tuple[str, str, str | None, str]] = set()
    for data in data_of(spec):
        if data.type == "hub" and (key := (data.name, data.revision, data.subset, data.split)) not in seen:
            seen.add(key)
            yield _timed("data", data.name, data.revision, _data, data)


def _timed(kind: str, name: str, revision: str, get: Any, item: Any) -> dict[str, Any]:
    start = time.monotonic()
    found = get(item)
    seconds = round(time.monotonic() - start, 1)
    return {"kind": kind, "name": name, "revision": revision, **found, "seconds": seconds}


def _model(model: HubModel) -> dict[str, Any]:
    from huggingface_hub import snapshot_download

    what = f"model {model.name} at {model.revision}"
    try:
        path = Path(snapshot_download(model.name, revision=model.revision, allow_patterns=MODEL_FILES))
    except Exception as error:
        problem = hub_problem(error, what)
        if problem:
            raise problem from None
        raise OpenRSError(f"{what}: {' '.join(str(error).split())}") from error
    if not any(path.glob("*.safetensors")):
        raise BadInput(f"{what}: has no weights as safetensors")
    return {"commit": path.name, "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file())}


def _data(data: Any) -> dict[str, Any]:
    # What `datasets` makes of the files is in a cache of its own, which it needs when the Hub is off.
    try:
        rows = len(load(data))
    except (OSError, ValueError) as error:
        raise OpenRSError(f"data set {data.name} at {data.revision}: {' '.join(str(error).split())}") from error
    return {"commit": commit(data), "rows": rows}


def in_environment_of(cluster: Cluster, spec: Spec) -> Iterator[dict[str, Any]]:
    """`fetch` in the environment of the cluster's jobs, on this machine. Raises BadInput, OpenRSError."""
    environment = {**os.environ, **cluster.environment, **spec.environment, "HF_HUB_OFFLINE": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE.parent), environment.get("PYTHONPATH")]))
    python = cluster.python or sys.executable
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "spec.json"
        path.write_text(pretty(spec))
        script = "\n".join(["set -e", *cluster.setup, 'exec "$@"'])
        command = ["bash", "-c", script, "openrs", python, "-m", "openrs.data.fetch", str(path)]
        with (Path(directory) / "errors").open("w+") as errors:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
            code = process.wait()
            errors.seek(0)
            said = errors.read().strip().splitlines() or [f"it ended with code {code}"]
    if code:
        own = [line.removeprefix("openrs: ") for line in said if line.startswith("openrs: ")]
        raise (BadInput if code == CONFIGURATION else OpenRSError)(f"cluster {cluster.name}: {(own or said)[-1]}")


def main(arguments: list[str]) -> int:
    """Fetches what a spec file names, a JSON line each; an exit code."""
    try:
        if len(arguments) != 1:
            raise BadInput("usage: python -m openrs.data.fetch SPEC.json")
        for line in fetch(read_spec(Path(arguments[0]))):
            print(json.dumps(line), flush=True)
    except OpenRSError as error:
        print(f"openrs: {' '.join(str(error).split())}", file=sys.stderr)
        return CONFIGURATION if isinstance(error, BadInput) else 1
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
