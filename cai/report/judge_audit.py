"""An audit of a judge: its labels against people's, with baselines that read nothing.

Pure functions, but for `read_audit`. Metrics, with pairs as clusters:

    audit.agreement             pairs whose likelier reply people chose; a label of ½ counts ½
    audit.agreement.shown_a     the same by one order alone: the better reply shown as (A)
    audit.agreement.shown_b     … and as (B)
    audit.shortest, .longest    pairs whose shorter, or longer, reply people chose (characters)
    audit.first_shown_rate      verdicts of one order that choose (A)
    audit.position_lean         nats towards (A); below 0, towards (B)
    audit.flip_rate             verdicts that change with the order of the replies
    audit.option_mass           probability of (A) and (B) together
    audit.log_loss              of the labels, nats; a constant one half has ln 2
    audit.unscored_rate         pairs without a label
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cai.errors import StoreError, blame
from cai.records import FrozenModel, Preference, Score, Vote
from cai.report.formats import estimate_text
from cai.report.labels import compare_with_humans, flipped, position_bias
from cai.statistics.agreement import Bin
from cai.statistics.estimates import estimate

SUBJECT = "judge"
TINY = 1e-12
"""A label of exactly 0 or 1 against people has this probability in the log loss."""


@dataclass(frozen=True)
class AuditedPair:
    """One pair of the labelled file."""

    label: Preference
    human: float
    """P(first is better) by people, not one half."""
    characters: tuple[int, int]
    """Lengths of the first and the second reply, without thoughts."""


class Audit(FrozenModel):
    """What an audit says, as `cai label` and PPO read it."""

    judge: str
    """Fingerprint."""
    config: str
    """Digest of the settings of `label`."""
    spec: str
    pairs: int
    ece: float | None
    """Of the likelier reply's probability; None: no pair has a label."""
    temperature: float | None
    """The divisor of the labels' log-odds with the least log loss on people's labels; None: they
    determine none."""
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """None: no price is known."""
    scores: tuple[Score, ...]

    def score(self, metric: str) -> Score | None:
        """The row of a metric; None: it applies to no pair."""
        return next((score for score in self.scores if score.metric == metric), None)

    @property
    def is_better_than_a_constant(self) -> bool:
        """Whether the interval of the agreement lies above one half."""
        agreement = self.score("audit.agreement")
        low = None if agreement is None else agreement.ci_low
        return low is not None and low > 0.5


def audit_scores(pairs: Sequence[AuditedPair]) -> tuple[list[Score], float | None, list[Bin]]:
    """(the metrics of the module's table, ECE, reliability curve)."""
    human = {pair.label.source: pair.human for pair in pairs}
    people = compare_with_humans([pair.label for pair in pairs], human)
    columns: list[tuple[str, list[float | None], bool | None]] = [
        ("audit.agreement.shown_a", [_of_order(pair, better_as_a=True) for pair in pairs], None),
        ("audit.agreement.shown_b", [_of_order(pair, better_as_a=False) for pair in pairs], None),
        ("audit.shortest", [_of_length(pair, -1) for pair in pairs], None),
        ("audit.longest", [_of_length(pair, 1) for pair in pairs], None),
        ("audit.log_loss", [_log_loss(pair) for pair in pairs], False),
        ("audit.unscored_rate", [float(p.label.p_first is None) for p in pairs], True),
    ]
    sources = [pair.label.source for pair in pairs]
    scores = [people.agreement.model_copy(update={"metric": "audit.agreement", "subject": SUBJECT})]
    scores += [
        estimate(metric, SUBJECT, values, sources, proportion=proportion)
        for metric, values, proportion in columns
    ]
    return scores + _vote_scores(pairs), people.ece, people.curve


def _vote_scores(pairs: Sequence[AuditedPair]) -> list[Score]:
    votes = [(pair.label.source, vote) for pair in pairs for vote in pair.label.votes]
    sources = [source for source, _ in votes]
    flips = [flipped(vote) for _, vote in votes]
    return [
        estimate(
            "audit.first_shown_rate", SUBJECT, [_first_shown(v) for _, v in votes], sources,
            proportion=False,
        ),
        estimate(
            "audit.position_lean", SUBJECT, [position_bias(v) for _, v in votes], sources,
            proportion=False,
        ),
        estimate(
            "audit.flip_rate", SUBJECT, [None if f is None else float(f) for f in flips], sources,
            proportion=True,
        ),
        estimate(
            "audit.option_mass", SUBJECT, [option_mass(v) for _, v in votes], sources,
            proportion=False,
        ),
    ]  # fmt: skip


def option_mass(vote: Vote) -> float | None:
    """Mean over both orders of P(A) + P(B)."""
    masses = [
        min(1.0, sum(map(math.exp, logprobs)))
        for logprobs in (vote.logprobs, vote.logprobs_swapped)
        if logprobs is not None
    ]
    return sum(masses) / len(masses) if masses else None


def _first_shown(vote: Vote) -> float | None:
    """Share of the two orders whose verdict is (A); a tie counts ½."""
    if vote.logprobs is None or vote.logprobs_swapped is None:
        return None
    orders = (vote.logprobs, vote.logprobs_swapped)
    return sum(0.5 if a == b else float(a > b) for a, b in orders) / 2


def _of_order(pair: AuditedPair, *, better_as_a: bool) -> float | None:
    """Whether the verdict of one order is people's, by the mean of the votes."""
    is_swapped = (pair.human > 0.5) != better_as_a
    logprobs = [v.logprobs_swapped if is_swapped else v.logprobs for v in pair.label.votes]
    known = [a - b for a, b in (entry for entry in logprobs if entry is not None)]
    if not known:
        return None
    margin = sum(known) * (1 if better_as_a else -1)
    return 0.5 if margin == 0 else float(margin > 0)


def _of_length(pair: AuditedPair, sign: int) -> float:
    """Whether people chose the longer (`sign` 1) or the shorter (-1) reply; equal lengths: ½."""
    first, second = pair.characters
    return 0.5 if first == second else float((sign * (first - second) > 0) == (pair.human > 0.5))


def _log_loss(pair: AuditedPair) -> float | None:
    p = pair.label.p_first
    if p is None:
        return None
    return -math.log(max(TINY, p if pair.human > 0.5 else 1 - p))


def log_odds(p: float) -> float:
    """Of a probability, within the limits of the log loss."""
    p = min(max(p, TINY), 1 - TINY)
    return math.log(p) - math.log1p(-p)


# ---- what others say of it ----


def read_audit(path: Path) -> Audit:
    """The record that `cai audit-judge` left.

    Raises:
        StoreError: it is none.
    """
    with blame(StoreError, f"{path}: not a record of cai audit-judge"):
        return Audit.model_validate(json.loads(path.read_text(encoding="utf-8")))


def audit_warning(audit: Audit | None, judge: str, config: str, spec: str) -> str | None:
    """What to say before a judge's labels are used; None: it is better than a constant.

    Args:
        judge, config: fingerprint of the judge and digest of its settings, as they are used now.
    """
    if audit is None:
        return (
            f"the judge {spec} was never audited: how far its labels agree with people is not known"
            " (cai audit-judge)"
        )
    if audit.judge != judge:
        return f"the audit is of another judge ({audit.spec}): {spec} was never audited"
    if audit.config != config:
        return f"the audit of {spec} is of other settings of label: with these it was never audited"
    if audit.is_better_than_a_constant:
        return None
    agreement = audit.score("audit.agreement")
    shown = "unknown" if agreement is None else estimate_text(agreement)
    return f"the judge {spec} did no better than a constant in its audit: agreement {shown}"


# ---- the card ----

ROWS: Mapping[str, str] = {
    "audit.agreement": "agreement with people",
    "audit.agreement.shown_a": "… of the order with the better reply as (A)",
    "audit.agreement.shown_b": "… of the order with the better reply as (B)",
    "audit.shortest": "baseline: the shorter reply",
    "audit.longest": "baseline: the longer reply",
    "audit.first_shown_rate": "verdicts for the reply shown as (A)",
    "audit.position_lean": "position lean, nats (above 0: towards (A))",
    "audit.flip_rate": "verdicts that flip with the order",
    "audit.option_mass": "probability of the options together",
    "audit.log_loss": "log loss, nats (a constant: 0.693)",
    "audit.unscored_rate": "pairs without a label",
}


def audit_card(audit: Audit, curve: Sequence[Bin], source: str, settings: str) -> str:
    """The audit as Markdown.

    Args:
        source: name of the labelled file.
        settings: the judge's, in words.
    """
    lean = _lean_sentence(audit.score("audit.position_lean"))
    parts = [
        f"# Audit of the judge `{_code(audit.spec)}`",
        f"{audit.pairs} labelled pairs of `{_code(source)}`; {settings}. "
        f"Fingerprint `{audit.judge}`.",
        _verdict_sentence(audit) + lean,
        "| | mean [95 % interval] |\n|---|---|\n" + "\n".join(_table_rows(audit)),
    ]
    if curve:
        head = "| probability of the likelier reply | people chose it | n |\n|---:|---:|---:|"
        rows = [f"| {point.predicted:.2f} | {point.observed:.2f} | {point.n} |" for point in curve]
        parts += ["Calibration:", "\n".join([head, *rows])]
    return "\n\n".join(parts) + "\n"


def _table_rows(audit: Audit) -> list[str]:
    scores = [(name, audit.score(metric)) for metric, name in ROWS.items()]
    rows = [f"| {name} | {estimate_text(score)} |" for name, score in scores if score is not None]
    ece = "–" if audit.ece is None else f"{audit.ece:.3f}"
    temperature = "–" if audit.temperature is None else f"{audit.temperature:.3g}"
    cost = "no price given" if audit.cost is None else f"cost {audit.cost:.4g}"
    return [
        *rows,
        f"| expected calibration error | {ece} |",
        f"| best divisor of the log-odds | {temperature} |",
        f"| calls; tokens read and written | {audit.calls:,}; {audit.prompt_tokens:,} + "
        f"{audit.completion_tokens:,}; {cost} |",
    ]


def _verdict_sentence(audit: Audit) -> str:
    if audit.is_better_than_a_constant:
        return "It agrees with people more often than a constant would."
    return "**It did no better than a constant: the interval of its agreement reaches one half.**"


def _lean_sentence(lean: Score | None) -> str:
    if lean is None or lean.mean is None or lean.ci_low is None or lean.ci_high is None:
        return ""
    if lean.ci_low <= 0 <= lean.ci_high:
        return " No lean towards either position is shown."
    letter = "(A), the first shown" if lean.mean > 0 else "(B), the last shown"
    return f" It leans to reply {letter}, by {abs(lean.mean):.2f} nats; labels average both orders."


def _code(text: str) -> str:
    """Text inside back quotes."""
    return " ".join(text.replace("`", "'").split())
