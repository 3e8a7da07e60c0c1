"""What `cells_per_task` saves: the cells of one checkpoint in one engine start, beside one start a cell.

Real lighteval on its transformers back end, a tiny model, two problems a cell: what is measured is nearly all start. On a GPU
an engine starts in about a minute, and a cell takes longer; the share is then the one of `openrs plan`'s minutes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.common import alternate, bytecode, cost, machine, parser, ratio, show, spread, verdict
from openrs.spec.load import PACKAGE

BENCHMARK = """
name: sums
data: {type: sums, split: held_out, count: 2, seed: 1}
sampling: {temperature: 0.7, max_prompt_tokens: 64, max_new_tokens: 16}
metric: extractive-expr
"""


def main() -> None:
    """Evaluates, prints."""
    options = parser(__doc__, 2)
    options.add_argument("--cells", type=int, default=4, metavar="N", help="seeds of one checkpoint (4)")
    args = options.parse_args()
    bytecode(args.cache)
    numbers = iter(range(10**6))
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        (home / "sums.yaml").write_text(BENCHMARK)
        (home / "openrs.toml").write_text(
            "".join(f'[clusters.{name}]\nextends = "local"\ncells_per_task = {size}\n' for name, size in (("one", 1), ("all", args.cells)))
        )  # fmt: skip

        def evaluate(cluster: str) -> float:
            run = f"run-{next(numbers)}"
            argv = [sys.executable, "-m", "openrs", "eval", str(PACKAGE / "models" / "tiny-sums"), "--cluster", cluster]
            argv += ["--benchmarks", "sums.yaml", "--seeds", str(args.cells), "--run", run, "--watch"]
            wall = cost(argv, {**os.environ, "OMP_NUM_THREADS": "1"}, home).wall
            cells = [json.loads(path.read_text()) for path in (home / "runs" / run / "eval").glob("*/*/*.json")]
            starts = sum(cell["engine_start_seconds"] > 0 for cell in cells)
            wanted = args.cells if cluster == "one" else 1
            if (len(cells), starts) != (args.cells, wanted):
                sys.exit(f"{len(cells)} cells in {starts} engine starts, not {args.cells} in {wanted}")
            return wall

        found = alternate({"one start": lambda: evaluate("all"), "a start a cell": lambda: evaluate("one")}, args.runs)
    print(f"{machine()}; {args.cells} cells, {args.runs} rounds")
    show(
        f"{args.cells} cells, seconds", ("", "wall"), [(name, spread(walls, digits=1)) for name, walls in found.items()]
    )
    together, apart = found["one start"], found["a start a cell"]
    print(f"one start / a start a cell: {ratio(together, apart)}")
    saved = (median(apart) - median(together)) / (args.cells - 1)
    verdict("several cells share an engine start", saved > 0, f"{args.cells - 1} starts saved, {saved:.1f} s each")


if __name__ == "__main__":
    main()
