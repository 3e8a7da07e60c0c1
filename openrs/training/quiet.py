"""Keeps standard error for what a person must read. Call it before transformers is imported."""

from __future__ import annotations

import logging
import os
import warnings


def quiet(gpus: int) -> None:
    """Silences what the libraries say of themselves: their future, their defaults, their progress bars."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not gpus:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed looks for a GPU even where nobody uses it, and warns
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
