"""Settings of a run: its YAML, and dotted overrides from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cai.artifacts import SETTINGS
from cai.catalog.entries import EvaluationEntry, refuse_repeated
from cai.catalog.names import is_described
from cai.constitution import find_constitution
from cai.constitution.overrides import override
from cai.constitution.yaml_source import Source, parse, read_yaml
from cai.data.filters import HygieneConfig
from cai.data.turns import read_turns
from cai.errors import ConfigError, StoreError, UsageError, blame
from cai.evals.replies import EvalConfig
from cai.generate.label_config import NEEDS_HIDDEN_STATES, NEEDS_LOCAL_JUDGE, LabelConfig
from cai.generate.pair import PairConfig
from cai.generate.revise import ReviseConfig
from cai.lm.budget import Prices
from cai.lm.credentials import refuse_user_info
from cai.lm.http import HttpConfig
from cai.modeling.model_files import local_model_name, resolve_model_path
from cai.modeling.model_spec import is_reward_spec
from cai.pipeline.named_files import existing, readable
from cai.pipeline.renamed_keys import refuse_renamed
from cai.records import FrozenModel
from cai.reward.composite import RewardWeights
from cai.shipped import QUICKSTART
from cai.store import atomic_write
from cai.train.ppo.config import PPOConfig
from cai.train.reward_config import RewardConfig
from cai.train.sft_config import SFTConfig
from cai.train.tracking import Tracker


class Run(FrozenModel):
    """A run's settings; each stage's section is that stage's own config."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = 0
    model: str = "smollm2"
    """Author, critic, judge, and the model that is trained: a spec as `cai.lm.open_lm` takes it.
    `?thinking=on` at its end lets it think before it replies; what is trained never does.
    """
    judge: str | None = None
    """Labels the pairs instead of `model`: a spec of a chat model, or `reward:FOLDER_OR_HUB_ID`, a
    reward model that others trained, by its scores (`label.scale`)."""
    judge_audit: str | None = None
    """The `.audit.json` that `cai audit-judge` left of this judge, relative to the run's YAML.
    Without it, or where the judge did no better in it than a constant, `label` and `ppo` say so in
    a line.
    """
    reward_model: str | None = None
    """A reward model that others trained, as `local:FOLDER_OR_HUB_ID`: it scores replies for
    `reward_weights.pm` instead of one that the run trains. The stage `reward` then fits its scale
    only, and 50-reward says which model it is."""
    constitution: str
    """A file beside the run's YAML, or the name of a constitution that ships with cai."""
    prompts: tuple[str, ...] = Field(min_length=1)
    """JSONL files, relative to the run's YAML."""
    preferences: tuple[str, ...] = ()
    """More preferences for the reward model: what `cai label` writes, or hh-rlhf dialogues.
    Relative to the run's YAML.
    """
    hygiene: HygieneConfig = HygieneConfig()
    """Which of the prompts are used; `against` names files relative to the run's YAML."""
    held_out: float = Field(0.4, gt=0, lt=1)
    """Share of the prompts of each kind and category that only the evaluation sees. Which ones does
    not depend on `seed`: runs of several seeds are evaluated on the same prompts.
    """
    dev: float = Field(0.0, ge=0, lt=1)
    """Share of the prompts kept from both training and `held_out`, to choose settings by."""
    validation: float = Field(0.0, ge=0, lt=1)
    """Share of the prompts that nothing learns from, for PPO to choose its final weights by. The
    evaluation sees other prompts.
    """
    evaluate_on: Literal["held_out", "dev"] = "held_out"
    """Prompts of the evaluation. While settings are chosen: `dev`, which leaves the held-out ones
    unseen.
    """
    split_by: Literal["user", "origin"] = "user"
    """Prompts of one user, or one origin, are all on the same side."""
    folder: str | None = None
    """Where artefacts go; `runs/NAME` below the working directory by default."""
    http: HttpConfig = HttpConfig()
    """Limits of the endpoints that `model` and `judge` may name."""
    prices: Prices = Prices()
    revise: ReviseConfig = ReviseConfig()
    sft: SFTConfig = SFTConfig()
    pair: PairConfig = PairConfig()
    label: LabelConfig = LabelConfig()
    reward: RewardConfig = RewardConfig()
    reward_weights: RewardWeights = RewardWeights()
    ppo: PPOConfig = PPOConfig()
    eval: EvalConfig = EvalConfig()
    evaluations: tuple[EvaluationEntry, ...] = ()
    """Further evaluations of base, SFT and policy: a list of `{name: bbq, data: FILE, limit:
    ROWS}`, with the evaluations and the keys that `cai eval --suite` has.
    """
    report_to: Tracker | None = None
    """Where PPO's curves go besides `60-policy/metrics.jsonl`: `tensorboard` (files in
    `60-tensorboard/`) or `trackio`.
    """

    @field_validator("model", "judge")
    @classmethod
    def _address_is_without_secrets(cls, spec: str | None) -> str | None:
        """Settings are saved: a secret in an address would be saved with them."""
        try:
            refuse_user_info(spec or "")
        except UsageError as error:
            raise ValueError(str(error).removeprefix("model: ")) from None
        return spec

    @model_validator(mode="after")
    def _other_models_are_without_secrets(self) -> Run:
        specs = {f"eval.subjects.{name}": one.model for name, one in self.eval.subjects.items()}
        for key, spec in ({"pair.subject": self.pair.subject} | specs).items():
            try:
                refuse_user_info(spec or "")
            except UsageError as error:
                raise ValueError(f"{key}: {str(error).removeprefix('model: ')}") from None
        return self

    @model_validator(mode="after")
    def _shares_of_prompts_fit(self) -> Run:
        taken = self.held_out + self.dev + self.validation
        if taken >= 1:
            raise ValueError(
                f"held_out, dev and validation take {taken:g} of the prompts: "
                "leave some for training"
            )
        if self.evaluate_on == "dev" and not self.dev:
            raise ValueError("evaluate_on: dev needs a share of the prompts (dev: 0.15)")
        return self

    @field_validator("evaluations")
    @classmethod
    def _evaluations_have_names(
        cls, evaluations: tuple[EvaluationEntry, ...]
    ) -> tuple[EvaluationEntry, ...]:
        refuse_repeated(evaluations)
        if any(entry.name == "refusal" and entry.label is None for entry in evaluations):
            raise ValueError("refusal: give it a `label`: a run has metrics of this name already")
        return evaluations

    @model_validator(mode="after")
    def _judge_can_score_replies(self) -> Run:
        """Said before the stages that come first are run."""
        judge = self.judge or self.model
        is_local = local_model_name(judge) is not None
        if self.label.ask == "relevance" and not (is_local or judge.startswith("fake:")):
            raise ValueError(f"label: {NEEDS_LOCAL_JUDGE}")
        if self.label.ask == "probe" and not is_local:
            raise ValueError(f"label: {NEEDS_HIDDEN_STATES}")
        return self

    @model_validator(mode="after")
    def _reward_models_have_their_part(self) -> Run:
        if self.judge is not None and is_reward_spec(self.judge) and self.reward_weights.direct:
            raise ValueError(
                "reward_weights.direct is a judge's rating, and a reward model gives none: set it"
                " to 0, or name a chat model as judge"
            )
        if self.judge is not None and is_reward_spec(self.judge) and self.eval.subjects:
            raise ValueError(
                "eval.subjects are compared by a judge's verdicts in both orders: name a chat model"
                " as judge"
            )
        if self.reward_model is not None and local_model_name(self.reward_model) is None:
            raise ValueError(
                f"reward_model: {self.reward_model}: name its weights, as local:FOLDER_OR_HUB_ID"
            )
        if self.reward_model is not None and self.ppo.critic == "reward":
            raise ValueError(
                "ppo.critic: reward begins as the preference model that a run trains, which"
                " reward_model replaces: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _critic_has_its_model(self) -> Run:
        if self.ppo.critic == "reward" and not self.reward_weights.pm:
            raise ValueError(
                "ppo.critic: reward begins as the preference model, which reward_weights.pm: 0"
                " leaves out; give it a weight"
            )
        return self


class ResolvedRun(BaseModel):
    """A run with the paths of its files."""

    model_config = ConfigDict(frozen=True)

    run: Run
    folder: Path
    constitution: Path
    prompts: tuple[Path, ...]
    against: tuple[Path, ...] = ()
    """Evaluation texts that prompts must not repeat."""
    preferences: tuple[Path, ...] = ()
    extra: tuple[Path, ...] = ()
    """Demonstrations of `sft.extra`."""
    evaluations: tuple[EvaluationEntry, ...] = ()
    """The run's, with absolute paths."""
    ptx_files: tuple[Path, ...] = ()
    judge_audit: tuple[Path, ...] = ()
    """One file, or none."""
    subject_turns: dict[str, Path] = {}
    """Name of an evaluated subject -> the file of its turns."""

    @model_validator(mode="after")
    def _has_all_evaluations(self) -> ResolvedRun:
        if len(self.evaluations) != len(self.run.evaluations):
            raise ValueError("the files of evaluations are missing")
        return self


def settings_text(resolved: ResolvedRun) -> str:
    """The settings as the run's folder keeps them, with absolute paths."""
    names = ("prompts", "against", "preferences", "extra", "ptx_files", "judge_audit")
    files = {name: tuple(path.resolve() for path in getattr(resolved, name)) for name in names}
    turns = {name: path.resolve() for name, path in resolved.subject_turns.items()}
    absolute = resolved.model_copy(
        update={
            "constitution": resolved.constitution.resolve(),
            "subject_turns": turns,
            **files,
        }
    )
    settings = absolute.model_dump(mode="json", exclude={"folder": True, "run": {"folder"}})
    return json.dumps(settings, indent=2) + "\n"


def save_run(resolved: ResolvedRun) -> None:
    """Leave the settings in the run's folder."""
    text = settings_text(resolved)
    file = resolved.folder / SETTINGS
    if not file.exists() or file.read_bytes() != text.encode():
        atomic_write(file, text)


def _saved_run(folder: Path, overrides: Sequence[str]) -> ResolvedRun:
    file = folder / SETTINGS
    if not file.exists():
        raise StoreError(f"{folder}: no run in it ({SETTINGS} is missing): give the run's YAML")
    if overrides:
        raise ConfigError(
            f"{folder}: override settings where they come from: give the run's YAML with --set"
        )
    with blame(StoreError, f"{file}: not the settings of a run of this version"):
        return ResolvedRun.model_validate(
            json.loads(file.read_text(encoding="utf-8")) | {"folder": folder}
        )


def load_run(path: Path, overrides: Sequence[str] = ()) -> ResolvedRun:
    """Read a run's YAML and apply `key.path=value` overrides (values are YAML).

    Args:
        path: the YAML; or a run's folder, with its settings; or `quickstart`, which ships with cai.

    Raises:
        ConfigError: every mistake with file, line and the nearest valid key; an override that does
            not fit.
        StoreError: a file is missing, or a demonstration of `sft.extra` is wrong.
    """
    if path.is_dir():
        return _saved_run(path, overrides)
    if str(path) == QUICKSTART.stem and not path.exists():
        path = QUICKSTART
    source = override(read_yaml(path), overrides)
    refuse_renamed(source)
    run = parse(source, Run)
    audits = [run.judge_audit] if run.judge_audit else []
    beside = path.parent / Path(run.constitution).expanduser()
    resolved = ResolvedRun(
        run=run,
        folder=Path(run.folder or f"runs/{run.name}"),
        constitution=beside if beside.exists() else find_constitution(run.constitution),
        prompts=existing(source, ("prompts",), run.prompts),
        against=existing(source, ("hygiene", "against"), run.hygiene.against),
        preferences=existing(source, ("preferences",), run.preferences),
        extra=readable(existing(source, ("sft", "extra"), run.sft.extra)),
        evaluations=_evaluations(source, run.evaluations),
        ptx_files=existing(source, ("ppo", "ptx", "files"), run.ppo.ptx.files),
        subject_turns=_subject_turns(source, run),
        judge_audit=existing(source, ("judge_audit",), audits),
    )
    _check_folders(source, resolved)
    return resolved


def _evaluations(source: Source, entries: Sequence[EvaluationEntry]) -> tuple[EvaluationEntry, ...]:
    """The entries, with absolute paths. What they use may be of a later stage.

    Raises:
        StoreError: the data, or the file of an evaluation, does not exist.
    """
    named = [entry.data for entry in entries if entry.data is not None]
    existing(source, ("evaluations",), named)
    described = [entry.name for entry in entries if is_described(entry.name)]
    existing(source, ("evaluations",), described)
    return tuple(entry.seen_from(source.path.parent.absolute()) for entry in entries)


def _subject_turns(source: Source, run: Run) -> dict[str, Path]:
    """The files of the evaluated subjects' turns. They are read here, as the stages before `eval`
    take long.
    """
    files = {}
    for name, subject in run.eval.subjects.items():
        if subject.turns is not None:
            key = ("eval", "subjects", name, "turns")
            (files[name],) = existing(source, key, [subject.turns])
            read_turns(files[name])
    return files


def _check_folders(source: Source, resolved: ResolvedRun) -> None:
    """Folders of models that only a late stage opens. One in the run's folder may be made by then.

    Raises:
        UsageError: there is no such model.
    """
    run = resolved.run
    specs: dict[tuple[str, ...], str | None] = {("pair", "subject"): run.pair.subject}
    specs |= {("eval", "subjects", name): one.model for name, one in run.eval.subjects.items()}
    specs |= {("reward_model",): run.reward_model, ("ppo", "critic"): run.ppo.critic_model}
    specs[("eval", "guard")] = (run.eval.guard or "").partition("#")[0]
    for key, spec in specs.items():
        kind, _, _ = (spec or "").partition(":")
        name = local_model_name(spec) if spec and kind == "local" else None
        if name is None or resolved.folder.resolve() in Path(name).expanduser().resolve().parents:
            continue
        try:
            resolve_model_path(name)
        except UsageError as error:
            raise ConfigError(f"{source.at(key)}: {'.'.join(key)}: {error}") from None
