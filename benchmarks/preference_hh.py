"""A preference model on people's verdicts: its accuracy and calibration on held-out pairs.

    CAI_EVAL_DATA=/path/to/data python benchmarks/preference_hh.py \\
        [--rows odd] [--folds 5] [--soft 0.8] [--set KEY=VALUE ...]

Data: `preference/hh_rlhf/harmless_base_test.jsonl` (arXiv:2204.05862). Four fifths of the prompts
of its even (or odd) rows train a fresh model on SmolLM2, the other fifth measures it; with `--folds
5`, each in turn. Once with hard labels, and once with the same labels softened: the chosen reply is
the better one with a probability of `--soft`. Prints accuracy (Wilson), expected calibration error,
the paired difference of the two (bootstrap over prompts), and minutes. Dialogues lose their oldest
turns until prompt and reply are at most 320 tokens.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from cai.data.preferences import labelled_pairs
from cai.modeling.model_files import resolve_model_path
from cai.pipeline.preference_model import fresh_model
from cai.records import Chat
from cai.reward.preference_model import PreferenceModel
from cai.seeds import rng
from cai.statistics.agreement import ece
from cai.statistics.estimates import estimate
from cai.train.comparison import Comparison
from cai.train.preference import RewardConfig, train

MAX_TOKENS = 320
Pair = tuple[str, list[int], list[int]]
"""Prompt id, token ids with the chosen reply, token ids with the rejected one."""
Prediction = tuple[str, float]
"""Prompt id, P(the chosen reply is better)."""


def shortened(
    model: PreferenceModel, chat: Chat, replies: tuple[str, str]
) -> tuple[list[int], list[int]]:
    """Token ids of both replies after the same turns: as many of the last ones as fit."""
    starts = [i for i, message in enumerate(chat) if message.role == "user"]
    for start in starts:
        rows = [model.rows(chat[start:], reply) for reply in replies]
        if max(map(len, rows)) <= MAX_TOKENS or start == starts[-1]:
            break
    return rows[0][-MAX_TOKENS:], rows[1][-MAX_TOKENS:]


def load_pairs(model: PreferenceModel, data: Path, parity: str) -> list[Pair]:
    """The pairs of the even or odd rows, those of two equal replies left out."""
    path = data / "preference" / "hh_rlhf" / "harmless_base_test.jsonl"
    pairs = []
    for row in labelled_pairs(path):
        is_odd = (row.number - 1) % 2 == 1
        if is_odd == (parity == "odd") and row.first != row.second:
            prompt = row.prompt
            ids = shortened(model, prompt.chat, (row.first, row.second))
            pairs.append((prompt.id, *ids))
    return pairs


def comparisons(pairs: Sequence[Pair], held_out: set[str], p: float) -> list[Comparison]:
    """Training pairs; p is the probability that the chosen reply is the better one.

    Each second pair is swapped, so that the model does not learn that the first one wins.
    """
    return [
        Comparison(prompt, chosen, rejected, p)
        if i % 2
        else Comparison(prompt, rejected, chosen, 1 - p)
        for i, (prompt, chosen, rejected) in enumerate(pairs)
        if prompt not in held_out
    ]


def predictions(model: PreferenceModel, pairs: Sequence[Pair]) -> list[Prediction]:
    chosen = model.score([pair[1] for pair in pairs])
    rejected = model.score([pair[2] for pair in pairs])
    margins = np.subtract(chosen, rejected)
    return [(pair[0], 1 / (1 + math.exp(-m))) for pair, m in zip(pairs, margins, strict=True)]


def main() -> None:
    options = parse_options()
    root = os.environ.get("CAI_EVAL_DATA")
    if not root:
        sys.exit("preference_hh: set CAI_EVAL_DATA to the folder that holds preference/")
    settings = {"layers": 8, "epochs": 2, "batch_size": 8, "learning_rate": 2e-4}
    for text in options.set:
        key, _, value = text.partition("=")
        settings[key] = yaml.safe_load(value)
    config = RewardConfig.model_validate(settings)
    base = resolve_model_path("smollm2")
    pairs = load_pairs(fresh_model(base, config, 0), Path(root), options.rows)
    prompts = sorted(
        {prompt for prompt, _, _ in pairs},
        key=lambda prompt: rng(0, "preference_hh", prompt).random(),
    )
    print(
        f"{options.rows} rows: {len(pairs)} pairs of {len(prompts)} prompts; "
        f"{config.model_dump(exclude_defaults=True)}",
        flush=True,
    )

    results: dict[str, list[Prediction]] = {"hard": [], "soft": []}
    for fold in range(options.folds):
        held_out = set(prompts[fold::5])
        for name, p in (("hard", 1.0), ("soft", options.soft)):
            started = time.perf_counter()
            model = fresh_model(base, config, 0)
            training = comparisons(pairs, held_out, p)
            loss = train(model, training, config, seed=0, progress=lambda done, total: None)
            results[name] += predictions(model, [pair for pair in pairs if pair[0] in held_out])
            minutes = (time.perf_counter() - started) / 60
            print(
                f"fold {fold + 1}, {name}: {len(training)} pairs, loss {loss:.3f}, "
                f"{minutes:.1f} min; {result_text(results[name])}",
                flush=True,
            )
    compare(results["hard"], results["soft"])


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", choices=("even", "odd"), default="even")
    parser.add_argument("--folds", type=int, choices=range(1, 6), default=1)
    parser.add_argument("--soft", type=float, default=0.8)
    parser.add_argument("--set", nargs="*", default=[])
    return parser.parse_args()


def result_text(results: list[Prediction]) -> str:
    hits = [float(p > 0.5) for _, p in results]
    prompts = [prompt for prompt, _ in results]
    score = estimate("accuracy", "", hits, prompts, proportion=True)
    interval = f"[{score.ci_low:.3f}, {score.ci_high:.3f}]"
    return f"accuracy {score.mean:.3f} {interval} n={score.n}, ECE {calibration_error(results):.3f}"


def calibration_error(results: list[Prediction]) -> float:
    """Of the probability given to the reply that the model prefers."""
    error = ece([max(p, 1 - p) for _, p in results], [float(p > 0.5) for _, p in results])
    assert error is not None  # noqa: S101
    return error


def compare(hard: list[Prediction], soft: list[Prediction], draws: int = 2000) -> None:
    """The difference of the calibration errors, prompts resampled for both alike."""
    indices_by_prompt: dict[str, list[int]] = {}
    for i, (prompt, _) in enumerate(hard):
        indices_by_prompt.setdefault(prompt, []).append(i)
    groups = [indices_by_prompt[prompt] for prompt in sorted(indices_by_prompt)]
    stream = np.random.default_rng(0)
    differences = []
    for _ in range(draws):
        drawn = stream.integers(len(groups), size=len(groups))
        indices = [i for group in drawn for i in groups[group]]
        soft_error = calibration_error([soft[i] for i in indices])
        hard_error = calibration_error([hard[i] for i in indices])
        differences.append(soft_error - hard_error)
    low, high = np.quantile(differences, [0.025, 0.975])
    difference = calibration_error(soft) - calibration_error(hard)
    print(f"ECE of soft less hard labels: {difference:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
