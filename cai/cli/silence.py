"""Silencing of libraries, so that standard error holds only our own lines."""

from __future__ import annotations

import logging
import os
import sys


def quiet() -> None:
    """Turn off the telemetry, warnings, logs and progress bars of libraries."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import warnings

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if "huggingface_hub" in sys.modules:  # it has read the environment, and transformers ask it
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
