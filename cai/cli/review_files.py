"""Where the items of a review come from: a run's files, or files by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cai.errors import StoreError, UsageError

if TYPE_CHECKING:
    from cai.constitution.schema import Rubric
    from cai.records import EvalReply
    from cai.review.items import Item


@dataclass(frozen=True)
class Sources:
    """Where the items of a review are, and where its judgements go."""

    pairs: Path | None
    preferences: Path | None
    replies: Path | None
    constitution: str | None
    """Its rubric has the propositions."""
    output: Path

    def pair_items(self) -> list[Item]:
        from cai.review.items import read_pairs

        return [] if self.pairs is None else read_pairs(self.pairs, self.preferences)

    def reply_rows(self) -> list[EvalReply]:
        from cai.records import EvalReply
        from cai.store import read_rows

        return [] if self.replies is None else list(read_rows(self.replies, EvalReply))

    def rubric(self) -> Rubric | None:
        from cai.constitution import load_constitution

        return None if self.constitution is None else load_constitution(self.constitution).rubric


def review_sources(
    run: Path | None,
    pairs: Path | None,
    preferences: Path | None,
    replies: Path | None,
    output_and_constitution: tuple[Path | None, str | None],
) -> Sources:
    """The files that the command line names.

    Raises:
        UsageError: options that do not go together.
        ConfigError, StoreError: the run cannot be read.
    """
    from cai.artifacts import PAIRS, PREFERENCES, REPLIES, REVIEW

    output, constitution = output_and_constitution
    files = [file for file in (pairs, preferences, replies) if file is not None]
    if (run is None) == (not files):
        raise UsageError("review: give a run, or --pairs or --replies")
    if preferences is not None and pairs is None:
        raise UsageError("review: --preferences are labels of --pairs: give both")
    if run is None:
        if output is None:
            raise UsageError("review: without a run, name the file of judgements (--output)")
        return Sources(pairs, preferences, replies, constitution, output)
    if constitution is not None:
        raise UsageError("review: a run has a constitution of its own: leave --constitution out")
    from cai.pipeline.config import load_run

    resolved = load_run(run)

    def existing(name: str) -> Path | None:
        path = resolved.folder / name
        return path if path.exists() else None

    return Sources(
        existing(PAIRS),
        existing(PREFERENCES) if existing(PAIRS) else None,
        existing(REPLIES),
        str(resolved.constitution),
        output or resolved.folder / REVIEW,
    )


def review_queue(
    sources: Sources,
    only: Literal["pairs", "replies"] | None,
    compare: tuple[str, str] | None,
    order: Literal["doubt", "random"],
) -> list[Item]:
    """The items to judge, in order.

    Raises:
        UsageError: a subject of `compare` gave no reply.
        StoreError: there is nothing to judge, or a file cannot be read.
    """
    from cai.review.items import at_random, doubtful_first, reply_items, subject_pairs

    if compare is not None:
        rows = sources.reply_rows()
        subjects = list(dict.fromkeys(row.subject for row in rows))
        for subject in compare:
            if subject not in subjects:
                known = ", ".join(subjects) or "there are no replies"
                raise UsageError(f"--compare {subject}: no such subject in the replies ({known})")
        items = subject_pairs(rows, *compare)
    else:
        items = [] if only == "replies" else sources.pair_items()
        items += [] if only == "pairs" else reply_items(sources.reply_rows())
    if not items:
        raise StoreError(
            f"{sources.output.parent}: nothing to judge: no pair of different replies, no reply"
        )
    return (doubtful_first if order == "doubt" else at_random)(items)
