"""A preference model on people's verdicts: how often it is right about pairs it has not seen, and how sure it should be.

    CAI_EVAL_DATA=/path/to/data python benchmarks/preference_hh.py [--rows odd] [--folds 5] [--soft 0.8] [--set KEY=VALUE ...]

reads `preference/hh_rlhf/harmless_base_test.jsonl` (arXiv:2204.05862). Four fifths of the prompts of its even (or odd) rows
train a fresh model on SmolLM2, the other fifth measures it; with `--folds 5`, each in its turn. Once with hard labels, and once
with the same labels softened: the chosen reply is the better one with a probability of `--soft`. Prints accuracy (Wilson),
expected calibration error, the paired difference of the two (bootstrap over prompts), and minutes. Dialogues lose their oldest
turns until prompt and reply are at most 320 tokens.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import yaml

from cai.data.preferences import labelled_pairs
from cai.evals.agreement import ece
from cai.evals.stats import estimate
from cai.modeling.model_files import locate
from cai.pipeline.preference_model import fresh_model
from cai.records import Chat
from cai.reward.preference_model import PreferenceModel
from cai.seeds import rng
from cai.train.preference import Comparison, RewardConfig, train

TOKENS = 320


def shortened(model: PreferenceModel, chat: Chat, replies: tuple[str, str]) -> tuple[list[int], list[int]]:
    """Rows of both replies after the same turns: as many of the last ones as fit."""
    starts = [i for i, message in enumerate(chat) if message.role == "user"]
    for start in starts:
        rows = [model.rows(chat[start:], reply) for reply in replies]
        if max(map(len, rows)) <= TOKENS or start == starts[-1]:
            break
    return rows[0][-TOKENS:], rows[1][-TOKENS:]


def main() -> None:
    where = os.environ.get("CAI_EVAL_DATA")
    if not where:
        sys.exit("preference_hh: set CAI_EVAL_DATA to the folder that holds preference/")
    options = argparse.ArgumentParser()
    options.add_argument("--rows", choices=("even", "odd"), default="even")
    options.add_argument("--folds", type=int, choices=range(1, 6), default=1)
    options.add_argument("--soft", type=float, default=0.8)
    options.add_argument("--set", nargs="*", default=[])
    given = options.parse_args()
    settings = {"layers": 8, "epochs": 2, "batch_size": 8, "learning_rate": 2e-4}
    settings |= {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in given.set)}
    config, base = RewardConfig.model_validate(settings), locate("smollm2")
    reader = fresh_model(base, config, 0)
    file = Path(where) / "preference" / "hh_rlhf" / "harmless_base_test.jsonl"
    rows = [row for row in labelled_pairs(file) if (row.number - 1) % 2 == (given.rows == "odd")]
    pairs = [
        (row.prompt.id, *shortened(reader, row.prompt.chat, (row.first, row.second))) for row in rows if row.first != row.second
    ]
    prompts = sorted({prompt for prompt, _, _ in pairs}, key=lambda prompt: rng(0, "preference_hh", prompt).random())
    print(
        f"{given.rows} rows: {len(pairs)} pairs of {len(prompts)} prompts; {config.model_dump(exclude_defaults=True)}", flush=True
    )

    found: dict[str, list[tuple[str, float]]] = {"hard": [], "soft": []}
    for fold in range(given.folds):
        held = set(prompts[fold::5])
        for name, p in (("hard", 1.0), ("soft", given.soft)):
            started = time.perf_counter()
            model = fresh_model(base, config, 0)
            learn = [  # each second pair is given the other way round: the model must not learn that the first one wins
                Comparison(prompt, a, b, p) if i % 2 else Comparison(prompt, b, a, 1 - p)
                for i, (prompt, a, b) in enumerate(pairs)
                if prompt not in held
            ]
            loss = train(model, learn, config, seed=0, progress=lambda done, total: None)
            tested = [pair for pair in pairs if pair[0] in held]
            margins = np.subtract(*(model.score([pair[side] for pair in tested]) for side in (1, 2)))
            found[name] += [(pair[0], 1 / (1 + math.exp(-m))) for pair, m in zip(tested, margins, strict=True)]
            minutes = (time.perf_counter() - started) / 60
            print(
                f"fold {fold + 1}, {name}: {len(learn)} pairs, loss {loss:.3f}, {minutes:.1f} min; {told(found[name])}",
                flush=True,
            )
    compare(found["hard"], found["soft"])


def told(found: list[tuple[str, float]]) -> str:
    score = estimate("accuracy", "", [float(p > 0.5) for _, p in found], [prompt for prompt, _ in found], proportion=True)
    return f"accuracy {score.mean:.3f} [{score.ci_low:.3f}, {score.ci_high:.3f}] n={score.n}, ECE {calibration(found):.3f}"


def calibration(found: list[tuple[str, float]]) -> float:
    """Of the probability given to the reply that the model prefers."""
    error = ece([max(p, 1 - p) for _, p in found], [float(p > 0.5) for _, p in found])
    assert error is not None  # noqa: S101
    return error


def compare(hard: list[tuple[str, float]], soft: list[tuple[str, float]], draws: int = 2000) -> None:
    """Difference of the calibration errors, prompts drawn again for both alike."""
    places: dict[str, list[int]] = {}
    for i, (prompt, _) in enumerate(hard):
        places.setdefault(prompt, []).append(i)
    stream, names, differences = np.random.default_rng(0), sorted(places), []
    for _ in range(draws):
        drawn = [i for at in stream.integers(len(names), size=len(names)) for i in places[names[at]]]
        differences.append(calibration([soft[i] for i in drawn]) - calibration([hard[i] for i in drawn]))
    low, high = np.quantile(differences, [0.025, 0.975])
    print(f"ECE of soft less hard labels: {calibration(soft) - calibration(hard):+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
