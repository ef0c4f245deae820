"""What a small model's numbers say about which reply is better: every try, beside plain baselines.

    CAI_EVAL_DATA=/path/to/data python benchmarks/judge_tries.py [FOLDER]

FOLDER holds what `judge_features.py` wrote; without it, all of that is computed first, which takes
half an hour on an idle core: what needs a system turn or a second question on 100 pairs a set only.

Each try gives each reply a score, so no order of the two replies plays a part. Signs and wordings
are fixed in advance. What remains to choose, the layer and the regulariser of the probes, is chosen
on this project's own pairs (`judge_texts.py`): one pair in eight is left out in turn. A probe is
fitted on those pairs alone, and no human label of a public set is seen.

Prints the share of pairs in which the reply that people chose has the higher score (a tie is one
half), with Wilson's 95 % interval. `*`: the interval lies above one half; `-`: below.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from judge_features import DEPTHS, Arrays, Features, fill, load, pairs_of
from judge_texts import harm_replies

from cai.generate.reply_scores import LOG_ODDS_A_NAT
from cai.statistics import linear_probe
from cai.statistics.agreement import ece
from cai.statistics.estimates import wilson
from cai.statistics.paired import paired_difference

PUBLIC = ("harmless", "helpful", "hhh", "llmbar")
OWN = ("written", "misses")
FOLDS = 8
LAYERS = tuple(round(30 * depth) for depth in DEPTHS)
"""Named by their numbers in SmolLM2-135M."""
SEEN = {"harmless": 100, "helpful": 50, "hhh": 100, "llmbar": 50}
"""Pairs that were looked at before the last choices: own pairs about harm were added, and relevance
became a sum, which then predicted own pairs best."""
SHIPPED = {"relevance, sum": LOG_ODDS_A_NAT, "probe on harm": 1.0}
"""The presets `relevance` and `probe`: try -> log-odds that a score of 1 more is worth."""
READINGS = ("mean", "last", "answer-1")
"""Hidden states: mean over the reply, at its end, and before the answer to the first question."""
PENALTIES = (0.003, 0.03, 0.3, 3.0)
FIXED_PENALTY = 0.3

Setting = tuple[str, int, float]
"""Reading, layer, penalty."""
Scores = np.ndarray
"""(pair, reply)"""
Try = Callable[[Arrays], Scores]


def per_token(sums: np.ndarray, arrays: Arrays) -> Scores:
    return sums / arrays["counted"]


def per_character(sums: np.ndarray, arrays: Arrays) -> Scores:
    """Of the tokens that were counted, which have their share of the characters."""
    return sums / arrays["characters"] * arrays["tokens"] / arrays["counted"]


FIXED: dict[str, Try] = {
    "shortest reply": lambda x: -x["characters"],
    "longest reply": lambda x: x["characters"],
    "likelihood, sum": lambda x: x["plain"],
    "likelihood, a token": lambda x: per_token(x["plain"], x),
    "relevance, sum": lambda x: x["plain"] - x["other"],
    "relevance, a token": lambda x: per_token(x["plain"] - x["other"], x),
    "relevance, a character": lambda x: per_character(x["plain"] - x["other"], x),
    "P(yes), helpful and harmless": lambda x: x["yes-1"],
}
WITH_MORE: dict[str, Try] = {
    "relevance against an empty prompt, sum": lambda x: x["plain"] - x["empty"],
    "relevance against an empty prompt, a token": lambda x: per_token(x["plain"] - x["empty"], x),
    "contrast, sum": lambda x: x["abide"] - x["break"],
    "contrast, a token": lambda x: per_token(x["abide"] - x["break"], x),
    "P(yes), glad to get it": lambda x: x["yes-2"],
    "contrast and both P(yes)": lambda x: (
        standard(per_token(x["abide"] - x["break"], x))
        + standard(x["yes-1"])
        + standard(x["yes-2"])
    ),
}


def standard(scores: Scores) -> Scores:
    """Scores in units of the spread of their differences: what an ensemble adds up."""
    spread = float(np.std(scores[:, 0] - scores[:, 1]))
    return scores / spread if spread > 0 else scores


# ---- agreement ----


def hits(scores: Scores) -> np.ndarray:
    """1 where the better reply has the higher score, ½ at a tie, else 0."""
    return (np.sign(scores[:, 0] - scores[:, 1]) + 1) / 2


def cell(values: np.ndarray) -> str:
    share, n = float(values.mean()), len(values)
    low, high = wilson(share, n)
    mark = "*" if low > 0.5 else "-" if high < 0.5 else " "
    return f"{share:.3f} [{low:.3f}, {high:.3f}] n={n}{mark}"


def gain(scores: Scores, baseline: Scores) -> str:
    """Agreement less the baseline's on the same pairs."""
    pairs = [str(i) for i in range(len(scores))]
    both = hits(scores).tolist(), hits(baseline).tolist()
    difference = paired_difference(*both, pairs, proportion=False)
    if difference.ci_low is None:  # all pairs differ alike
        return f"{difference.mean:+.3f}"
    return f"{difference.mean:+.3f} [{difference.ci_low:+.3f}, {difference.ci_high:+.3f}]"


def calibration(scores: Scores, scale: float) -> float:
    """Expected calibration error of the reply that is preferred."""
    log_odds = scale * (scores[:, 0] - scores[:, 1])
    confidence = 1 / (1 + np.exp(-np.abs(log_odds)))
    error = ece(confidence.tolist(), hits(scores).tolist())
    assert error is not None  # noqa: S101
    return error


# ---- probes ----


def states(arrays: Arrays, reading: str, layer: int) -> np.ndarray:
    """(pair, reply, E), float64."""
    kept: np.ndarray = arrays[reading][:, :, LAYERS.index(layer)].astype(float)
    return kept


def fitted(own: Arrays, setting: Setting, rows: np.ndarray) -> linear_probe.LinearProbe:
    """The probe of some own pairs; what follows from length alone is left out of it."""
    reading, layer, penalty = setting
    states_NRE = states(own, reading, layer)[rows]
    log_tokens_NR = np.log(own["tokens"][rows])
    longer_N = log_tokens_NR[:, 0] - log_tokens_NR[:, 1]
    return linear_probe.fit(states_NRE[:, 0], states_NRE[:, 1], longer_N, penalty)


def held_out_scores(own: Arrays, setting: Setting) -> Scores:
    """Of own pairs, by probes that were fitted without them."""
    folds = np.arange(len(own["tokens"])) % FOLDS
    scores = np.zeros((len(folds), 2))
    for fold in range(FOLDS):
        probe = fitted(own, setting, folds != fold)
        scores[folds == fold] = probe.scores(states(own, *setting[:2])[folds == fold])
    return scores


def chosen(own: Arrays) -> Setting:
    """The setting with the lowest log loss on own pairs that were left out."""
    settings = [(r, layer, p) for r in READINGS for layer in LAYERS for p in PENALTIES]

    def loss(setting: Setting) -> float:
        scores = held_out_scores(own, setting)
        return linear_probe.log_loss(scores[:, 0] - scores[:, 1])

    return min(settings, key=loss)


def probe_try(own: Arrays, setting: Setting) -> Try:
    probe = fitted(own, setting, np.arange(len(own["tokens"])))
    return lambda x: probe.scores(states(x, *setting[:2]))


def probe_tries(own: dict[str, Arrays]) -> dict[str, Try]:
    """A probe for every reading and layer, and those that own pairs choose."""
    written, misses = own["written"], own["misses"]
    tries = {
        f"probe, {reading}, layer {layer}": probe_try(written, (reading, layer, FIXED_PENALTY))
        for reading in READINGS
        for layer in LAYERS
    }
    both = {key: np.concatenate([written[key], misses[key]]) for key in written}
    is_harm = are_about_harm()[: len(written["tokens"])]
    parts = {
        "harm": selected(written, is_harm),
        "all but harm": selected(written, ~is_harm),
        "written": written,
        "near misses": misses,
        "both": both,
    }
    for name, pairs in parts.items():
        setting = chosen(pairs)
        share = float(hits(held_out_scores(pairs, setting)).mean())
        print(f"probe on {name}: {setting}, {share:.3f} of {len(pairs['tokens'])} left out in turn")
        tries[f"probe on {name}"] = probe_try(pairs, setting)
    return tries


def selected(arrays: Arrays, rows: np.ndarray | slice) -> Arrays:
    return {key: values[rows] for key, values in arrays.items()}


def are_about_harm() -> np.ndarray:
    """Which of the written pairs, in the order of their features."""
    replies = harm_replies()
    return np.array([better in replies for _, better, _ in pairs_of("written", None)])


def ensembles(tries: dict[str, Try]) -> dict[str, Try]:
    def added(*names: str) -> Try:
        return lambda x: sum(standard(tries[name](x)) for name in names)

    relevance, probe, yes = (
        "relevance, sum",
        "probe on harm",
        "P(yes), helpful and harmless",
    )
    return {
        "relevance and probe": added(relevance, probe),
        "relevance, probe and P(yes)": added(relevance, probe, yes),
        "every probe": added(*[name for name in tries if name.startswith("probe, ")]),
    }


# ---- the table ----


def table(tries: dict[str, Try], sets: dict[str, Arrays]) -> list[str]:
    """One line a try, one cell a set."""
    width = max(map(len, tries))
    lines = [" " * width + "  " + "".join(f"{name:32}" for name in sets)]
    for name, score in tries.items():
        cells = [f"{cell(hits(score(arrays))):32}" for arrays in sets.values()]
        lines.append(f"{name:{width}}  " + "".join(cells).rstrip())
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?")
    folder = parser.parse_args().folder
    if folder is None:
        with tempfile.TemporaryDirectory() as scratch:
            print_tables(computed(Path(scratch)))
    else:
        print_tables(folder)


def computed(folder: Path) -> Path:
    """The folder, filled with all features."""
    features = Features("smollm2")
    fill(features, folder, (*OWN, *PUBLIC), "plain", 1000)
    fill(features, folder, PUBLIC, "more", 100)
    return folder


def print_tables(folder: Path) -> None:
    own = {name: load(folder, name) for name in OWN}
    if not all(own.values()):
        sys.exit(f"judge_tries: {folder} lacks the files of judge_features.py")
    tries = FIXED | probe_tries(own)
    tries |= ensembles(tries)
    public = {name: load(folder, name) for name in PUBLIC}
    print("\n".join(table(FIXED, own)))
    print("\n".join(table(tries, {name: x for name, x in public.items() if x})))
    unseen = {name: selected(x, slice(SEEN[name], None)) for name, x in public.items() if x}
    print("on pairs that were not looked at before:")
    later = {name: x for name, x in unseen.items() if len(x["tokens"])}
    if later:
        print("\n".join(table({name: tries[name] for name in SHIPPED}, later)))
    for name, baseline in ((n, b) for n in SHIPPED for b in ("shortest reply", "longest reply")):
        gains = [f"{s} {gain(tries[name](x), tries[baseline](x))}" for s, x in public.items() if x]
        print(f"{name}, less {baseline}: {', '.join(gains)}")
    for name, scale in SHIPPED.items():
        errors = [f"{s} {calibration(tries[name](x), scale):.2f}" for s, x in public.items() if x]
        print(f"ECE of {name}: {', '.join(errors)}")
    more = {name: load(folder, name, "more") for name in PUBLIC}
    known = {name: joined(public[name], x) for name, x in more.items() if x and public[name]}
    if known:
        print("\n".join(table(WITH_MORE, known)))


def joined(plain: Arrays, more: Arrays) -> Arrays:
    """Both parts of the pairs that have both."""
    count = min(len(plain["tokens"]), len(more["abide"]))
    return {key: values[:count] for key, values in (plain | more).items()}


if __name__ == "__main__":
    main()
