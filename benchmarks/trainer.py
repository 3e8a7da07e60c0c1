"""A GRPO step of ours beside one of stock TRL 0.16.1, on this machine's CPU: the same model, prompts and number of completions.

Both train the smoke experiment's model for some steps, as one process, in micro-batches of one group (6 completions), which is
the recipe's way. Stock generates once for each micro-batch and computes all logits; ours once a step, and the logits of
completions only. Each measurement is a fresh process; the first steps, which import and warm up, are not counted.

`memory` compares the peak memory of the log-probabilities and their gradient alone, at the paper's vocabulary (151,936) and
length (3,584), for one sequence of a model whose body is small.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.common import alternate, bytecode, machine, note, parser, ratio, show, spread, verdict

SKIPPED = 3
"""Steps at the start that are not counted."""

STOCK = """
import json, sys, time
from openrs.data.load import load, model_path
from openrs.spec.load import load_experiment
from openrs.training.model import load_model, load_tokenizer
from openrs.training.rollout import named_rewards
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

experiment, steps = load_experiment("smoke"), int(sys.argv[1])
name, revision = model_path(experiment.model)
tokenizer, training, sampling = load_tokenizer(name, revision), experiment.training, experiment.sampling
rows = [{"prompt": [{"role": "user", "content": row["problem"]}], "answer": row["answer"]} for row in load(experiment.data)]
from datasets import Dataset

generation = []
class Timed(GRPOTrainer):
    def _generate_and_score_completions(self, inputs):
        start = time.perf_counter()
        result = super()._generate_and_score_completions(inputs)
        generation[-1] += time.perf_counter() - start
        return result

class Clock(TrainerCallback):
    def on_step_begin(self, *args, **kwargs):
        self.start = time.perf_counter()
        generation.append(0.0)
    def on_step_end(self, *args, **kwargs):
        seconds = time.perf_counter() - self.start
        print(json.dumps({"seconds": seconds, "drawing": generation[-1], "learning": seconds - generation[-1]}), flush=True)

def named(function, name):
    def reward(completions, **columns):
        return function(completions, **columns)
    reward.__name__ = name
    return reward

trainer = Timed(
    model=load_model(name, revision, "float32", "sdpa"),
    reward_funcs=[named(function, name) for name, function in named_rewards(experiment).items()],
    args=GRPOConfig(
        output_dir=sys.argv[2], max_steps=steps, per_device_train_batch_size=6, gradient_accumulation_steps=12,
        num_generations=6, beta=training.beta, temperature=sampling.temperature, top_k=None,
        max_prompt_length=sampling.max_prompt_tokens, max_completion_length=sampling.max_new_tokens,
        learning_rate=training.learning_rate, lr_scheduler_type="constant", use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True, seed=training.seed, logging_steps=10**6,
    ),
    train_dataset=Dataset.from_list(rows),
    processing_class=tokenizer,
    callbacks=[Clock()],
)
trainer.train()
"""

MEMORY = """
import contextlib, json, resource, sys, threading, time
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
side, vocabulary, length = sys.argv[1], 151936, 3584
torch.manual_seed(0)
config = Qwen2Config(
    vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=8192, tie_word_embeddings=True,
)
model = Qwen2ForCausalLM(config)
prompt, completion = list(range(10, 138)), torch.randint(0, vocabulary, (length,)).tolist()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

most, going = resident(), True
def watch():
    global most
    while going:
        most = max(most, resident())
        time.sleep(0.005)

before = resident()
thread = threading.Thread(target=watch)
thread.start()
start = time.perf_counter()
if side == "ours":
    from openrs.training.logprobs import token_stats
    logps = token_stats(model, [prompt], [completion], 0.7).logps
else:
    from types import SimpleNamespace
    from trl.trainer.grpo_trainer import GRPOTrainer
    stock = SimpleNamespace(temperature=0.7, args=SimpleNamespace(report_to=[]))
    ids = torch.tensor([prompt + completion])
    before = resident()
    start = time.perf_counter()
    logps = GRPOTrainer._get_per_token_logps(stock, model, ids, torch.ones_like(ids), length)[0]
logps.sum().backward()
seconds = time.perf_counter() - start
going = False
thread.join()
norm = float(torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm())
print(json.dumps({"gib": (most - before) / 2**30, "seconds": seconds, "sum": logps.sum().item(), "gradient": norm}))
"""


def ours(steps: int) -> list[dict[str, float]]:
    """Metrics of the steps of a run of ours."""
    with tempfile.TemporaryDirectory() as directory:
        code = (
            "import json, sys; from pathlib import Path; from tests.training.harness import make_job\n"
            "from openrs.spec.load import load_experiment\n"
            "options = ['training.steps=' + sys.argv[1], 'training.micro_batch=6', 'training.schedule=constant',\n"
            "           'evaluation.at_steps=[]', 'checkpoint.every_steps=1000000']\n"
            "job = make_job(Path(sys.argv[2]) / 'run', load_experiment('smoke', options)); result = job.finish()\n"
            "assert result.returncode == 0, result.stderr\n"
            "print(job.run.metrics.read_text())"
        )
        lines = _lines([sys.executable, "-c", code, str(steps), directory])
    phases = [{**line, **line["phases"]} for line in lines]
    return [
        {
            "seconds": line["seconds"] - line.get("saving", 0.0),
            "drawing": line["sync"] + line["generation"] + line["rewards"],
            "learning": line["learning"],
        }
        for line in phases
    ]


def stock(steps: int) -> list[dict[str, float]]:
    """The same of stock TRL."""
    with tempfile.TemporaryDirectory() as directory:
        return _lines([sys.executable, "-c", STOCK, str(steps), directory])


def _lines(command: list[str]) -> list[dict[str, float]]:
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **quiet, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:2])} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]  # not what TRL sums up


def main() -> None:
    """Prints both tables."""
    options = parser(__doc__, 3)
    options.add_argument("--steps", type=int, default=12, metavar="N", help="steps of each process (12)")
    args = options.parse_args()
    bytecode(args.cache)
    print(machine())
    found = alternate({"stock": lambda: stock(args.steps), "ours": lambda: ours(args.steps)}, args.runs)
    medians = {
        side: {part: [median(step[part] for step in run[SKIPPED:]) for run in runs] for part in runs[0][0]}
        for side, runs in found.items()
    }
    rows = [
        (
            what,
            *(spread(medians[side][part], 1000, 0) for side in ("stock", "ours")),
            ratio(medians["stock"][part], medians["ours"][part]),
        )
        for what, part in (("whole step", "seconds"), ("generation and rewards", "drawing"), ("learning", "learning"))
    ]
    show(
        "a step of 72 completions, ms: median (range) of the processes' medians",
        ("", "stock TRL", "openrs", "ratio"),
        rows,
    )
    sides = {side: (lambda side=side: _lines([sys.executable, "-c", MEMORY, side])[0]) for side in ("stock", "ours")}
    memory = alternate(sides, 1)
    rows = [
        (
            side,
            f"{runs[0]['gib']:.2f}",
            f"{runs[0]['seconds']:.1f}",
            f"{runs[0]['sum']:.1f}",
            f"{runs[0]['gradient']:.4f}",
        )
        for side, runs in memory.items()
    ]
    header = ("", "peak GiB", "seconds", "sum of log-probabilities", "norm of the gradient")
    show("log-probabilities and gradient, 1 × 3,584 tokens, vocabulary 151,936, float32", header, rows)
    print()
    speed = median(medians["stock"]["seconds"]) / median(medians["ours"]["seconds"])
    verdict("a step at least 1.5 times as fast as stock", speed >= 1.5, f"{speed:.2f}")
    share = memory["ours"][0]["gib"] / memory["stock"][0]["gib"]
    verdict("at most a fifth of the memory", share <= 0.2, f"{share:.3f}")
    note("done")


if __name__ == "__main__":
    main()
