"""What a run says of its judge before it uses the judge's labels."""

from __future__ import annotations

from cai.artifacts import PREFERENCES
from cai.pipeline.context import RunContext
from cai.report.judge_audit import audit_warning, read_audit
from cai.store import digest, read_manifest


def warn_before_labels(ctx: RunContext, judge: str) -> None:
    """A line, if the judge was never audited, or its audit found nothing.

    Args:
        judge: its fingerprint.
    """
    _warn(ctx, "label", judge, digest(ctx.run.label))


def warn_before_ppo(ctx: RunContext) -> None:
    """The same, where PPO learns from the judge's ratings, or from a model of its labels."""
    run = ctx.run
    if run.reward_weights.direct:
        _warn(ctx, "ppo", ctx.lm(run.judge or run.model).fingerprint, digest(run.label))
    elif run.reward_weights.pm and run.reward_model is None:
        # of labels from elsewhere there is no manifest, and no judge is known
        manifest = read_manifest(ctx.path(PREFERENCES))
        recorded = {} if manifest is None else manifest.provenance
        _warn(ctx, "ppo", recorded.get("judge", ""), digest(run.label))


def _warn(ctx: RunContext, stage: str, judge: str, config: str) -> None:
    files = ctx.resolved.judge_audit
    audit = read_audit(files[0]) if files else None
    spec = ctx.run.judge or ctx.run.model
    warning = audit_warning(audit, judge, config, spec)
    if warning is not None:
        ctx.notify(f"{stage}: {warning}")
