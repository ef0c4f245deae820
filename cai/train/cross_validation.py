"""Does a preference model foresee judges it has not learnt from? k folds by group (arXiv:2203.02155, section 4.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cai.errors import TrainError
from cai.progress import Progress
from cai.reward.preference_model import PreferenceModel
from cai.train.preference import Agreement, Comparison, RewardConfig, evaluate, train


class Fold(NamedTuple):
    groups: tuple[str, ...]
    """Whose verdicts were left out of training, and are measured."""
    learnt_from: int
    measured: list[Agreement]


def folds(groups: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """The distinct groups in `count` parts of about as many rows each; larger groups are placed first, ties by name.

    Raises:
        TrainError: fewer groups than parts.
    """
    sizes = Counter(groups)
    if len(sizes) < count:
        raise TrainError(
            f"folds: {count} parts need as many groups, there are {len(sizes)}: {', '.join(sorted(sizes))}"
        )
    parts: list[list[str]] = [[] for _ in range(count)]
    for group in sorted(sizes, key=lambda name: (-sizes[name], name)):
        min(parts, key=lambda part: sum(sizes[name] for name in part)).append(group)
    return [tuple(sorted(part)) for part in parts]


def cross_validate(
    fresh: Callable[[], PreferenceModel],
    comparisons: Sequence[tuple[str, Comparison]],
    count: int,
    config: RewardConfig,
    *,
    seed: int,
    progress: Progress,
) -> list[Fold]:
    """A new model per fold, trained on the other folds' comparisons, of other prompts only, and measured on the fold's.

    Args:
        comparisons: each with its group.

    Raises:
        TrainError: too few groups, or a fold whose prompts are all there are.
    """
    parts = folds([group for group, _ in comparisons], count)
    found = []
    for place, part in enumerate(parts):
        held = [c for group, c in comparisons if group in part]
        prompts = {c.prompt for c in held}
        learn = [c for group, c in comparisons if group not in part and c.prompt not in prompts]
        if not learn:
            raise TrainError(
                f"folds: without {', '.join(part)} and the prompts they judged, nothing is left to learn from"
            )
        model = fresh()

        def told(done: int, steps: int, place: int = place) -> None:
            progress(place * steps + done, count * steps)

        train(model, learn, config, seed=seed, progress=told)
        found.append(Fold(part, len(learn), evaluate(model, held)))
    return found


def mix_pairs(
    own: Sequence[Comparison],
    others: Sequence[Comparison],
    share: float | None,
    order: Callable[[Comparison], float],
) -> list[Comparison]:
    """Both, thinned to the ratio that makes `own` a `share` of the whole; None: all of both.

    Whichever side has too many loses those that `order` puts last.
    """
    if share is None or not own or not others:
        return [*own, *others]
    most = max(1, round(len(others) * share / (1 - share)))
    if len(own) > most:
        return [*sorted(own, key=order)[:most], *others]
    return [*own, *sorted(others, key=order)[: max(1, round(len(own) * (1 - share) / share))]]
