"""The settings that a run's folder keeps, `run.json`: replaced only by settings that hold for it.

Other commands (`serve-reward`, `report`) take them for those that the artefacts were made with. So
changed settings are saved when every stage that they decide, and that has left something in the
folder, has accepted them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cai.artifacts import (
    PAIRS,
    POLICY,
    PREFERENCES,
    PROMPTS,
    REVISIONS,
    REWARD,
    SCORES,
    SETTINGS,
    SFT,
    STAGES,
)
from cai.pipeline.config import ResolvedRun, save_run, settings_text
from cai.store import manifest_path

ARTEFACT_OF = {
    "prompts": PROMPTS,
    "revise": REVISIONS,
    "sft": SFT,
    "pair": PAIRS,
    "label": PREFERENCES,
    "reward": REWARD,
    "ppo": POLICY,
    "eval": SCORES,
}
"""Stage -> the artefact that has its manifest."""
DECIDES: dict[str, tuple[str, ...]] = {
    "name": (),
    "prices": (),
    "report_to": (),
    "judge_audit": (),
    "model": ("prompts", "revise", "sft", "label", "ppo", "eval"),
    "judge": ("label", "ppo"),
    "constitution": ("revise", "label", "ppo", "eval"),
    "prompts": ("prompts",),
    "preferences": ("reward",),
    "hygiene": ("prompts", "sft", "reward"),
    "against": ("prompts", "sft", "reward"),
    "held_out": ("prompts",),
    "dev": ("prompts",),
    "validation": ("prompts", "ppo"),
    "evaluate_on": ("prompts",),
    "split_by": ("prompts",),
    "http": ("prompts", "revise", "label", "ppo", "eval"),
    "revise": ("revise",),
    "sft": ("sft",),
    "extra": ("sft",),
    "pair": ("pair",),
    "label": ("label",),
    "reward": ("reward", "ppo", "eval"),
    "reward_model": ("reward", "ppo", "eval"),
    "reward_weights": ("ppo",),
    "ppo": ("ppo",),
    "ptx_files": ("ppo",),
    "eval": ("eval",),
    "evaluations": ("eval",),
    "subject_turns": ("eval",),
}
"""Setting -> stages whose artefacts it decides; a setting that is not listed: all of them."""


class SettingsSaver:
    """Saves the settings of a command once they are accepted."""

    def __init__(self, resolved: ResolvedRun) -> None:
        self.resolved = resolved
        self.changed = _changed_settings(resolved)
        """Setting -> stages with an artefact that it decides."""
        self.waiting = {stage for stages in self.changed.values() for stage in stages}
        self._save_if_accepted()

    def accept(self, stage: str) -> None:
        """Note that `stage` takes the settings: its artefact has the same provenance, or none."""
        self.waiting.discard(stage)
        self._save_if_accepted()

    def _save_if_accepted(self) -> None:
        if not self.waiting:
            save_run(self.resolved)

    def warn(self, notify: Callable[[str], None]) -> None:
        """Say which changed settings were not saved, if any."""
        unsaved = [
            name for name, stages in self.changed.items() if self.waiting.intersection(stages)
        ]
        if unsaved:
            stages = ", ".join(stage for stage in STAGES if stage in self.waiting)
            notify(
                f"{self.resolved.folder / SETTINGS}: left as it was, because {stages} did not run "
                f"with the changed {', '.join(unsaved)}"
            )


def _changed_settings(resolved: ResolvedRun) -> dict[str, list[str]]:
    """Settings that differ from the saved ones -> the stages they decide that have an artefact."""
    finished = [
        stage
        for stage, name in ARTEFACT_OF.items()
        if manifest_path(resolved.folder / name).exists()
    ]
    try:
        saved = json.loads((resolved.folder / SETTINGS).read_text(encoding="utf-8"))
        old = _by_name(ResolvedRun.model_validate(saved | {"folder": resolved.folder}))
    except (OSError, ValueError, TypeError, RecursionError):
        # nothing to compare with: the folder takes the settings of this command
        return {}
    return {
        name: [stage for stage in finished if stage in DECIDES.get(name, finished)]
        for name, value in _by_name(resolved).items()
        if old[name] != value
    }


def _by_name(resolved: ResolvedRun) -> dict[str, Any]:
    """The settings by name, with the absolute paths of their files."""
    saved = json.loads(settings_text(resolved))
    return {**saved.pop("run"), **saved}
