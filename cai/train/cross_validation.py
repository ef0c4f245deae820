"""k-fold cross-validation of the preference model by groups of labels (arXiv:2203.02155, 4.1).

It measures how well the model predicts labellers that it has not been trained on.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cai.errors import StoreError, TrainError, blame
from cai.progress import Progress
from cai.reward.preference_model import PreferenceModel
from cai.store import atomic_write
from cai.train.agreement import Agreement, evaluate
from cai.train.comparison import Comparison
from cai.train.preference import RewardConfig, train


class Fold(NamedTuple):
    """One fold's result."""

    groups: tuple[str, ...]
    """Groups that were left out of training and measured."""
    train_pairs: int
    """Number of training comparisons."""
    agreements: list[Agreement]


def folds(groups: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """The distinct groups in `count` folds of about equally many rows.

    Greedy: larger groups are assigned first, ties by name, each to the smallest fold.

    Args:
        groups: of each row.

    Raises:
        TrainError: fewer groups than folds.
    """
    sizes = Counter(groups)
    if len(sizes) < count:
        names = ", ".join(sorted(sizes))
        raise TrainError(
            f"folds: {count} parts need as many groups, there are {len(sizes)}: {names}"
        )
    parts: list[list[str]] = [[] for _ in range(count)]
    for group in sorted(sizes, key=lambda name: (-sizes[name], name)):
        smallest = min(parts, key=lambda part: sum(sizes[name] for name in part))
        smallest.append(group)
    return [tuple(sorted(part)) for part in parts]


def cross_validate(
    fresh: Callable[[], PreferenceModel],
    comparisons: Sequence[tuple[str, Comparison]],
    count: int,
    config: RewardConfig,
    *,
    seed: int,
    progress: Progress,
    checkpoints: Path | None = None,
) -> list[Fold]:
    """Train and measure a new model per fold.

    Training comparisons are those of the other folds whose prompts do not occur in this fold.

    Args:
        fresh: makes an untrained model.
        comparisons: each with its group.
        count: number of folds.
        checkpoints: folder of what the folds gave, and of the state of the one that is trained:
            after a kill the next call goes on from there. None: nothing is saved.

    Raises:
        TrainError: too few groups, or a fold that leaves nothing to train on.
        StoreError: what a kill left is torn, or of other settings or other pairs.
    """
    parts = folds([group for group, _ in comparisons], count)
    results = []
    for index, part in enumerate(parts):
        held_out = [c for group, c in comparisons if group in part]
        prompts = {c.prompt for c in held_out}
        training = [c for group, c in comparisons if group not in part and c.prompt not in prompts]
        if not training:
            raise TrainError(
                f"folds: without {', '.join(part)} and the prompts they judged, "
                "nothing is left to learn from"
            )
        home = None if checkpoints is None else checkpoints / f"fold-{index}"
        agreements = _measured(home, held_out)
        if agreements is None:
            model = fresh()
            share = _fold_progress(progress, index, count)
            train(model, training, config, seed=seed, progress=share, checkpoints=home)
            agreements = evaluate(model, held_out)
            _save_measured(home, agreements)
        results.append(Fold(part, len(training), agreements))
    return results


def _measured(home: Path | None, held_out: Sequence[Comparison]) -> list[Agreement] | None:
    """What a fold gave before a kill; None: it has not ended."""
    file = None if home is None else home.with_suffix(".json")
    if file is None or not file.exists():
        return None
    with blame(StoreError, f"{file}: not as it was written: remove it"):
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [
            Agreement(c.prompt, c.source, agrees, log_loss)
            for c, (agrees, log_loss) in zip(held_out, rows, strict=True)
        ]


def _save_measured(home: Path | None, agreements: Sequence[Agreement]) -> None:
    if home is not None:
        rows = [(a.agrees, a.log_loss) for a in agreements]
        atomic_write(home.with_suffix(".json"), json.dumps(rows) + "\n")
        shutil.rmtree(home, ignore_errors=True)


def _fold_progress(progress: Progress, index: int, count: int) -> Progress:
    """Progress within fold `index` as progress over all `count` folds."""

    def report(done: int, steps: int) -> None:
        progress(index * steps + done, count * steps)

    return report


def mix_pairs(
    run_pairs: Sequence[Comparison],
    other_pairs: Sequence[Comparison],
    share: float | None,
    order: Callable[[Comparison], float],
) -> list[Comparison]:
    """Both sets of pairs, thinned until `run_pairs` are a `share` of the result.

    The side with too many loses those that `order` ranks last. `share` None: all of both.
    """
    if share is None or not run_pairs or not other_pairs:
        return [*run_pairs, *other_pairs]
    most = max(1, round(len(other_pairs) * share / (1 - share)))
    if len(run_pairs) > most:
        return [*sorted(run_pairs, key=order)[:most], *other_pairs]
    most = max(1, round(len(run_pairs) * (1 - share) / share))
    return [*run_pairs, *sorted(other_pairs, key=order)[:most]]
