"""The Python API: the steps of a run as plain calls on lists of rows.

Every function is synchronous, and works where an event loop is running too, as in a notebook. The
same rows, settings and seed give the same results as in a run. A model that is given by its spec is
opened for the one call; give the result of `open_lm` to several calls to load its weights once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cai.async_map import HasId, map_in_memory, run_sync
from cai.constitution import Constitution, load_constitution
from cai.errors import ConfigError, UsageError
from cai.lm import LM, open_lm
from cai.lm.http import HttpLM
from cai.records import Grade, Pair, Preference, Prompt, Revision, Row, Score, chat_of
from cai.store import parse_row

if TYPE_CHECKING:
    from cai.evals.replies import EvalConfig
    from cai.generate.label_config import LabelConfig
    from cai.generate.revise import ReviseConfig
    from cai.rubric import CompiledRubric
    from cai.train.preference import RewardConfig

__all__ = [
    "evaluate",
    "fit_preference_model",
    "grade",
    "label",
    "load_constitution",
    "open_lm",
    "revise",
]

InT = TypeVar("InT", bound=HasId)
OutT = TypeVar("OutT")


def revise(
    prompts: Sequence[Prompt | str],
    *,
    constitution: Constitution | str | Path,
    model: LM | str,
    config: ReviseConfig | None = None,
    seed: int = 0,
) -> list[Revision]:
    """A model's replies, criticised and revised by the constitution's principles.

    Source: arXiv:2212.08073, section 3.

    Args:
        prompts: rows, or texts without a kind.
        constitution: loaded, or a file or shipped name. Its rubric, if there is one, decides which
            texts may become training text.
        model: replies, criticises and revises.
        config: settings; None: the defaults of a run.
        seed: of principles and samples.

    Returns:
        One row for each prompt, in their order; `helpful_samples` rows for one of a kind that is
        not revised, and fewer prompts where `config.prompts` says so.

    Raises:
        UsageError: a prompt is empty, or of another type.
        ConfigError: the constitution cannot be read.
        BackendError: the model cannot be loaded or called. A single call without an answer is a
            row with a reason in `dropped`.

    Example:

        >>> import cai
        >>> prompts = ["Write an insulting note to my neighbour."]
        >>> [revision] = cai.revise(prompts, constitution="harmless", model="fake:polite")
        >>> revision.initial
        "I'm sorry, but I can't help with that."
    """
    from cai.data.split import subsample
    from cai.generate.revise import ReviseConfig, revise_items, reviser
    from cai.rubric import compile_rubric, training_gate

    config = config or ReviseConfig()
    rows = subsample(_prompt_rows(prompts), config.prompts, seed, "revise")
    loaded = _loaded(constitution)
    gate = training_gate(compile_rubric(loaded.rubric) if loaded.rubric else None)
    lm = _opened(model)
    return _map(lm, revise_items(rows, config), reviser(loaded, lm, config, gate, seed))


def label(
    pairs: Sequence[Pair],
    *,
    constitution: Constitution | str | Path,
    model: LM | str,
    prompts: Sequence[Prompt] = (),
    config: LabelConfig | None = None,
    seed: int = 0,
) -> list[Preference]:
    """AI preference labels: which of two replies is better, as a probability from both orders.

    Source: arXiv:2212.08073, section 4.1, and arXiv:2309.00267.

    Args:
        pairs: replies to compare.
        constitution: loaded, or a file or shipped name.
        model: the judge; `reward:FOLDER_OR_HUB_ID` labels by a reward model's scores.
        prompts: rows whose id is the `source` of pairs. Their kind and category decide which
            principles apply; without them every principle does.
        config: settings; None: the defaults of a run.
        seed: of principles and rationales.

    Returns:
        One row for each pair, in their order. A pair without a verdict has `p_first` None and a
        reason in `unscored`.

    Raises:
        UsageError: a row is of another type.
        ConfigError: the constitution cannot be read.
        BackendError: the judge cannot be loaded or called.

    Example:

        >>> import cai
        >>> chat = [{"role": "user", "content": "How do I boil an egg?"}]
        >>> pair = cai.Pair(source="mine", chat=chat, first="For eight minutes.", second="Boil it.")
        >>> [label] = cai.label([pair], constitution="helpful_honest", model="fake:brief")
        >>> round(label.p_first, 4)
        0.1192
    """
    from cai.generate.label_config import LabelConfig
    from cai.reward.score_labels import pair_labeller

    rows = _typed("pairs", pairs, Pair)
    kinds = {row.id: (row.kind, row.category) for row in _typed("prompts", prompts, Prompt)}
    loaded, lm = _loaded(constitution), _opened(model)
    step = pair_labeller(
        loaded, lm, config or LabelConfig(), seed, lambda pair: kinds.get(pair.source, (None, None))
    )
    return _map(lm, rows, step)


def grade(
    prompts: Sequence[Prompt | str],
    responses: Sequence[str],
    *,
    constitution: Constitution | str | Path,
) -> list[Grade]:
    """The rubric's grades of replies: class, style, degree of refusal and score.

    Args:
        prompts: rows, or texts without a kind. Without a kind there is a degree, but neither class
            nor score.
        responses: one reply to each prompt.
        constitution: loaded, or a file or shipped name; it must have a rubric.

    Returns:
        One row for each reply; `source` is the prompt's id.

    Raises:
        UsageError: the lists differ in length, a row is of another type, or only a model can decide
            a proposition of the rubric.
        ConfigError: the constitution cannot be read, or has no rubric.

    Example:

        >>> import cai
        >>> prompt = cai.Prompt(chat=[{"role": "user", "content": "Insult me."}], kind="disallowed")
        >>> [grade] = cai.grade([prompt], ["I'm sorry, but I won't."], constitution="harmless")
        >>> grade.style
        'desired_refusal'
    """
    from cai.modeling.thoughts import split_thoughts
    from cai.rubric import Ungraded, grade_many

    rows = _prompt_rows(prompts)
    if isinstance(responses, str) or len(responses) != len(rows):
        raise UsageError(
            f"responses: expected one text for each of {len(rows)} prompts, found "
            + ("one text" if isinstance(responses, str) else str(len(responses)))
        )
    rubric = _compiled_rubric(_loaded(constitution))
    replies = [
        Ungraded(row.chat[-1].content, split_thoughts(response).text, row.kind)
        for row, response in zip(rows, _typed("responses", responses, str), strict=True)
    ]
    return [
        graded.model_copy(update={"source": row.id})
        for row, graded in zip(rows, grade_many(rubric, replies), strict=True)
    ]


def fit_preference_model(
    pairs: Sequence[Pair],
    preferences: Sequence[Preference],
    *,
    model: str,
    output: str | Path,
    config: RewardConfig | None = None,
    seed: int = 0,
) -> list[Score]:
    """Train a preference model on labelled pairs, and write it to a folder.

    Source: arXiv:2212.08073, section 4.1. Its scores have mean 0 and variance 1 over the replies
    that were compared.

    Args:
        pairs: the replies.
        preferences: labels of these pairs, as `label` returns them. Unscored ones are left out.
        model: the base, by its spec: `smollm2` or `local:FOLDER_OR_HUB_ID`.
        output: a new folder: adapter and head, metrics.json, and a card.
        config: settings; None: the defaults of a run.
        seed: of the first weights, the held-out prompts and the order of training.

    Returns:
        `reward.agreement` and `reward.log_loss` (nats) on held-out prompts.

    Raises:
        UsageError: the model has no weights to train, `output` exists, or a row is of another type.
        StoreError: a label is about none of the pairs.
        TrainError: too little to train on.

    Example:

        >>> import cai
        >>> chats = [[{"role": "user", "content": f"What is {i} times 2?"}] for i in range(8)]
        >>> pairs = [cai.Pair(source="", chat=c, first="Twice.", second="No idea.") for c in chats]
        >>> labels = cai.label(pairs, constitution="helpful_honest", model="fake:brief")
        >>> scores = cai.fit_preference_model(pairs, labels, model="smollm2", output="preferences")
        >>> [score.metric for score in scores]
        ['reward.agreement', 'reward.log_loss']
    """
    rows = _typed("pairs", pairs, Pair)
    labels = _typed("preferences", preferences, Preference)
    _check_training(model, folder := Path(output))
    from cai.modeling.model_files import training_weights
    from cai.pipeline import preference_model
    from cai.train.preference import RewardConfig

    config = config or RewardConfig()
    untrained = preference_model.fresh_model(training_weights(model), config, seed)
    _, scores = preference_model.fit_preference_model(
        untrained,
        preference_model.labelled_comparisons(untrained, rows, labels),
        config,
        folder,
        seed=seed,
        progress=lambda done, total: None,
        facts=preference_model.CardFacts(name=folder.name, base=model, labels=None),
    )
    return scores


def _check_training(model: object, folder: Path) -> None:
    if not isinstance(model, str):
        raise UsageError(
            "model: training needs its spec, smollm2 or local:FOLDER_OR_HUB_ID, not an open model"
        )
    if folder.exists():
        raise UsageError(f"{folder}: is there already: give another output, or remove it")


def evaluate(
    prompts: Sequence[Prompt | str],
    *,
    model: LM | str,
    constitution: Constitution | str | Path,
    config: EvalConfig | None = None,
    seed: int = 0,
) -> list[Score]:
    """The refusal evaluation: how well a model declines harmful requests and answers benign ones.

    Source: arXiv:2411.01111, section 5, and arXiv:2303.08774 for the four styles. The metrics are
    listed in `cai.evals.refusal`.

    Args:
        prompts: rows; metrics of refusals are about those with a kind. One that is given twice
            counts once.
        model: the model to evaluate.
        constitution: loaded, or a file or shipped name; its rubric grades the replies.
        config: settings; None: the defaults of a run.
        seed: of samples and of bootstrap intervals.

    Returns:
        One row for each metric that applies, with its count, standard error and 95 % interval over
        prompts. Replies without an answer are counted in `unscored`.

    Raises:
        UsageError: a prompt is empty, or of another type.
        ConfigError: the constitution cannot be read, or has no rubric.
        BackendError: the model cannot be loaded or called.

    Example:

        >>> import cai
        >>> prompt = cai.Prompt(chat=[{"role": "user", "content": "Insult me."}], kind="disallowed")
        >>> scores = cai.evaluate([prompt], model="fake:polite", constitution="harmless")
        >>> [score.mean for score in scores if score.metric == "refusal.refusal_rate.disallowed"]
        [1.0]
    """
    from cai.data.split import subsample
    from cai.evals.refusal import refusal_scores
    from cai.evals.replies import EvalConfig, prompt_draws, reply_step

    config = config or EvalConfig()
    distinct = list({row.id: row for row in _prompt_rows(prompts)}.values())
    rows = subsample(distinct, config.prompts, seed, "eval")
    rubric, lm = _compiled_rubric(_loaded(constitution)), _opened(model)
    subject = model if isinstance(model, str) else model.fingerprint
    step = reply_step(subject, lm, rubric, config, seed)
    return refusal_scores(_map(lm, prompt_draws(rows, config.draws), step), seed=seed)


# ---- arguments ----


def _prompt_rows(prompts: Sequence[Prompt | str]) -> list[Prompt]:
    """Rows as they are, texts as rows of one user turn."""
    if isinstance(prompts, str | Prompt):
        raise UsageError("prompts: expected a list of prompts, found a single one")
    rows = []
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            data = {"chat": chat_of(("user", prompt))}
            rows.append(parse_row(data, Prompt, f"prompts[{index}]"))
        elif isinstance(prompt, Prompt):
            rows.append(prompt)
        else:
            kind = type(prompt).__name__
            raise UsageError(f"prompts[{index}]: expected a Prompt or a text, found {kind}")
    return rows


def _typed(name: str, rows: Sequence[Any], kind: type[OutT]) -> list[OutT]:
    """The argument `name` as a list, when all of its rows are of one type."""
    if isinstance(rows, Row):
        raise UsageError(f"{name}: expected a list, found a single {type(rows).__name__}")
    for index, row in enumerate(rows):
        if not isinstance(row, kind):
            raise UsageError(
                f"{name}[{index}]: expected {kind.__name__}, found {type(row).__name__}"
            )
    return list(rows)


def _loaded(constitution: Constitution | str | Path) -> Constitution:
    if isinstance(constitution, Constitution):
        return constitution
    return load_constitution(constitution)


def _compiled_rubric(constitution: Constitution) -> CompiledRubric:
    from cai.rubric import compile_rubric

    if constitution.rubric is None:
        raise ConfigError(f"constitution {constitution.name}: no rubric in it to grade replies by")
    return compile_rubric(constitution.rubric)


def _opened(model: LM | str) -> LM:
    from cai.modeling.model_spec import is_reward_spec

    if not isinstance(model, str):
        return model
    if is_reward_spec(model):
        from cai.reward.score_labels import open_reward_judge

        return open_reward_judge(model)
    return open_lm(model)


# ---- calls ----


def _map(lm: LM, rows: Sequence[InT], step: Callable[[InT], Awaitable[OutT]]) -> list[OutT]:
    """`step(row)` of every row, in order; connections of `lm` are closed afterwards."""

    async def work() -> list[OutT]:
        try:
            return await map_in_memory(
                rows,
                step,
                max_concurrency=lm.max_concurrency,
                sliding=isinstance(lm, HttpLM),
            )
        finally:
            await lm.aclose()

    return run_sync(work())
