"""What the numbers bear: intervals, comparisons, and what choosing the best of several costs. Imports numpy and scipy.

Scores are shares from 0 to 1. Outcomes are arrays of (seeds, problems): the share of right answers of a seed to a
problem, which is 0 or 1 where a seed answers once. Two questions are kept apart everywhere:

- `THESE`, sampling noise on these problems: what would another set of seeds give on the same problems?
- `NEW`, a new set of problems like these: what would other problems of the same kind give?

The second interval is the wider one, since it holds the noise of the first too.
"""

from openrs.evaluation.statistics.compare import (
    Comparison,
    compare_counts,
    compare_many,
    compare_paired,
    compare_sampling,
    compare_scores,
    compare_summaries,
    holm,
)
from openrs.evaluation.statistics.intervals import (
    NEW,
    THESE,
    Interval,
    Question,
    Unpoolable,
    avg_at_k,
    bootstrap_intervals,
    bootstrap_means,
    mean_interval,
    mean_sd,
    one_hardware,
    pass_at_k,
    problem_interval,
    sampling_interval,
    seeds_interval,
    wilson_interval,
)
from openrs.evaluation.statistics.selection import (
    Chosen,
    expected_maximum,
    expected_normal_maximum,
    minimal_detectable_gain,
    noise_of_outcomes,
    shrunken_best,
    split_best,
    split_problems_best,
)
from openrs.evaluation.statistics.trend import Split, best_split

__all__ = [
    "NEW",
    "THESE",
    "Chosen",
    "Comparison",
    "Interval",
    "Question",
    "Split",
    "Unpoolable",
    "avg_at_k",
    "best_split",
    "bootstrap_intervals",
    "bootstrap_means",
    "compare_counts",
    "compare_many",
    "compare_paired",
    "compare_sampling",
    "compare_scores",
    "compare_summaries",
    "expected_maximum",
    "expected_normal_maximum",
    "holm",
    "mean_interval",
    "mean_sd",
    "minimal_detectable_gain",
    "noise_of_outcomes",
    "one_hardware",
    "pass_at_k",
    "problem_interval",
    "sampling_interval",
    "seeds_interval",
    "shrunken_best",
    "split_best",
    "split_problems_best",
    "wilson_interval",
]
