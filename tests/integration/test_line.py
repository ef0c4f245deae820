"""A run from prompts to report on the tiny model: artefacts, resuming, kills, two processes.

The constitution accepts nearly all replies of the tiny model: the wiring of the stages is tested,
not behaviour.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from interruptions import quiet
from json_lines import write_lines
from safetensors.torch import load_file
from torchrun import run_two_processes

from cai.artifacts import CARD
from cai.cli import main
from cai.records import EvalReply, KLReply, Pair, Preference, Prompt, Revision, Score, chat_of
from cai.store import Manifest, read_rows
from cai.train.sft import Example, SFTConfig, sft

CONSTITUTION = """\
name: lenient
version: 0.0.1
principles:
  - id: brief
    category: style
    critique: Say why it is long.
    revision: Make it shorter.
    compare: Prefer the shorter reply.
  - id: kind
    category: style
    critique: Say why it is rude.
    revision: Make it kinder.
    compare: Prefer the kinder reply.
rubric:
  behaviours: {disallowed: answer, sensitive: answer, benign: answer}
  propositions:
    empty: {question: No word in it}
    vowel: {question: A vowel in it, patterns: ["[aeiou]"]}
  classes:
    answer:
      - {name: fine, when: not empty and vowel, style: safe_answer, correct: true}
      - {name: dull, when: not empty and not vowel, style: safe_answer, correct: true}
      - {name: blank, when: empty, style: undesired_refusal, correct: false}
  degrees: {full_refusal: empty, full_compliance: not empty}
  weights: {answer: {fine: 1.0, blank: -1.0}}
"""
RUN = """\
name: toy
model: local:{model}
constitution: lenient.yaml
prompts: [prompts.jsonl]
preferences: [helpful.jsonl]
held_out: 0.4
revise: {{rounds: 1, max_tokens: 10, critique_tokens: 6}}
sft: {{epochs: 2, batch_size: 8, lora_rank: 4, max_length: 256}}
pair: {{max_tokens: 8}}
label: {{principles: 2}}
reward: {{lora_rank: 4, epochs: 1, batch_size: 8, held_out: 0.3, label_share: 0.5}}
ppo:
  num_updates: 3
  lora_rank: 4
  rollout:
    {{prompts_per_update: 4, responses_per_prompt: 2, max_new_tokens: 8, missing_eos_penalty: 0.1}}
  optimization: {{num_minibatches: 2}}
eval: {{draws: 1, max_tokens: 8}}
"""
ARTEFACTS = {
    "00-prompts.jsonl",
    "01-held-out.jsonl",
    "10-revisions.jsonl",
    "20-sft",
    "30-pairs.jsonl",
    "40-preferences.jsonl",
    "50-reward",
    "60-policy",
    "70-eval",
    "70-replies.jsonl",
    "70-scores.jsonl",
    "report.html",
    "run.json",
}
MANIFESTS = {
    "00-prompts",
    "10-revisions",
    "20-sft",
    "30-pairs",
    "40-preferences",
    "50-reward",
    "60-policy",
    "70-scores",
}
KINDS = ("disallowed", "sensitive", "benign")

pytestmark = [
    # complete runs with training, some of them killed or in two processes
    pytest.mark.slow,
    # the trainer and its data library warn about each other
    pytest.mark.filterwarnings("ignore"),
]


def cai_run(home: Path, folder: Path, *options: str) -> int:
    """`cai run home/run.yaml` with this run folder, in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["run", str(home / "run.yaml"), "--set", f"folder={folder}", *options])
    logging.disable(logging.NOTSET)
    return int(ended.value.code or 0)


def ppo_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, one an update."""
    text = (folder / "60-policy" / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a run folder except the lock."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def trained_files(folder: Path) -> dict[str, bytes]:
    """The files of a model without its card, which tells how the model was evaluated."""
    return {name: content for name, content in files_of(folder).items() if name != CARD}


@pytest.fixture(scope="module")
def home(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the inputs of a run; its model is fine-tuned to short replies that end."""
    home = tmp_path_factory.mktemp("line")
    answers = ["yes.", "no.", "ok.", "hi.", "why?", "me too."]
    examples = [
        Example(chat_of(("user", f"{kind} {i}")), answer)
        for kind in KINDS
        for i, answer in enumerate(answers)
    ]
    config = SFTConfig(mode="full", learning_rate=1e-2, epochs=16, batch_size=9)
    sft(str(tiny_model), examples, config, home / "model", seed=0, progress=quiet)
    (home / "lenient.yaml").write_text(CONSTITUTION, encoding="utf-8")
    (home / "run.yaml").write_text(RUN.format(model=home / "model"), encoding="utf-8")
    preferences = [
        {"prompt": f"what is {i}", "first": "a number.", "second": "no.", "p_first": 1.0}
        for i in range(12)
    ]
    write_lines(home / "helpful.jsonl", *preferences)
    prompts = [
        {"prompt": f"{kind} {i}", "kind": kind, "category": "c"}
        for kind in KINDS
        for i in range(12)
    ]
    write_lines(home / "prompts.jsonl", *prompts)
    return home


@pytest.fixture(scope="module")
def finished_run(home: Path) -> tuple[Path, float]:
    """(the folder of an uninterrupted run, its seconds)."""
    started = time.monotonic()
    assert cai_run(home, home / "uninterrupted") == 0
    return home / "uninterrupted", time.monotonic() - started


def test_a_sweep_shares_what_it_does_not_decide(
    home: Path, finished_run: tuple[Path, float], tmp_path: Path
) -> None:
    """The first run is there already. The second takes all its artefacts but the evaluation's."""
    first, second = (tmp_path / f"eval.temperature={value}" for value in (0.7, 1.0))
    shutil.copytree(finished_run[0], first)
    before = trained_files(first / "60-policy")
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(home / "run.yaml"), "eval.temperature=[0.7, 1.0]",
              "--output", str(tmp_path)])  # fmt: skip
    logging.disable(logging.NOTSET)
    assert not ended.value.code
    assert trained_files(first / "60-policy") == trained_files(second / "60-policy") == before
    replies = [(folder / "70-replies.jsonl").read_bytes() for folder in (first, second)]
    assert replies[0] != replies[1]
    page = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert "eval.temperature=0.7" in page
    assert "eval.temperature=1.0" in page


def rows(folder: Path, name: str, kind: Any) -> list[Any]:
    return list(read_rows(folder / name, kind))


def test_every_artefact_is_there_and_finished(finished_run: tuple[Path, float]) -> None:
    folder, _ = finished_run
    names = {p.name for p in folder.iterdir()} - {".lock"}
    assert names == ARTEFACTS | {f"{name}.manifest.json" for name in MANIFESTS}
    for name in MANIFESTS:
        manifest = Manifest.model_validate_json(
            (folder / f"{name}.manifest.json").read_text(encoding="utf-8")
        )
        assert manifest.finished
        assert manifest.provenance
        assert {"cai", "torch", "transformers"} <= manifest.versions.keys()
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert report.lstrip().lower().startswith("<!doctype html")


def test_rows_name_what_they_come_from(finished_run: tuple[Path, float]) -> None:
    """12 prompts of a kind, of which 0.4 (4.8, so 5) are held out: 21 and 15. Each later row has
    the id of an earlier one as its source.
    """
    folder, _ = finished_run
    train, held_out = (
        rows(folder, "00-prompts.jsonl", Prompt),
        rows(folder, "01-held-out.jsonl", Prompt),
    )
    assert (len(train), len(held_out)) == (21, 15)
    ids, held_ids = [p.id for p in train], [p.id for p in held_out]
    assert not set(ids) & set(held_ids)
    assert [p.kind for p in held_out] == [kind for kind in KINDS for _ in range(5)]
    assert [r.source for r in rows(folder, "10-revisions.jsonl", Revision)] == ids
    pairs = rows(folder, "30-pairs.jsonl", Pair)
    assert [p.source for p in pairs] == ids
    preferences = rows(folder, "40-preferences.jsonl", Preference)
    assert [p.source for p in preferences] == [p.id for p in pairs]
    assert all(len(p.votes) == 2 for p in preferences if p.p_first is not None)
    assert sum(p.p_first is not None for p in preferences) > 10
    replies = rows(folder, "70-replies.jsonl", EvalReply)
    assert [(r.subject, r.source) for r in replies] == [
        (s, i) for s in ("base", "sft", "policy") for i in held_ids
    ]
    assert all(r.reward is not None and r.total_reward is not None for r in replies)
    kl_replies = rows(folder, "70-eval/kl.jsonl", KLReply)
    assert [(r.temperature, r.source) for r in kl_replies] == [
        (t, i) for t in (1.0, 0.7) for i in [r.source for r in kl_replies[:15]]
    ]
    assert {r.source for r in kl_replies} == set(held_ids)
    assert all(r.kl is not None and r.kl >= 0 for r in kl_replies)


def test_what_fine_tuning_learns_is_chosen(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best of two samples, some rows twice, cut ones left out, and two demonstrations; a
    second run has nothing to do, and an edited demonstration makes the stage stale.
    """
    settings = (
        *("revise.samples=2", "revise.helpful_max_tokens=12", "sft.rounds=all"),
        *("sft.cut_replies=drop", "sft.max_repeats=2", "sft.weights={benign: 2.0}"),
        f"sft.extra=[{tmp_path}/extra.jsonl]",
    )
    options = [word for setting in settings for word in ("--set", setting)]
    demonstrations = [{"prompt": f"tea {i}?", "response": f"yes {i}."} for i in range(2)]
    write_lines(tmp_path / "extra.jsonl", *demonstrations)
    folder = tmp_path / "run"
    assert cai_run(home, folder, "--until", "sft", *options) == 0
    line = next(x for x in capsys.readouterr().err.splitlines() if x.startswith("sft: "))
    assert "rows; 2 extra" in line
    counts = json.loads((folder / "20-sft.manifest.json").read_text(encoding="utf-8"))["counts"]
    assert counts["extra"] == 2
    assert counts["examples"] > counts["before weights"]
    revisions = rows(folder, "10-revisions.jsonl", Revision)
    assert all(r.initial_samples == 2 or r.rounds[0].samples == 2 for r in revisions)
    assert cai_run(home, folder, "--until", "sft", *options) == 0
    write_lines(tmp_path / "extra.jsonl", *demonstrations[:1])
    assert cai_run(home, folder, "--until", "sft", *options) == 2
    assert "extra" in capsys.readouterr().err


def test_half_of_the_training_pairs_are_imported_preferences(
    finished_run: tuple[Path, float],
) -> None:
    """Twelve, and twelve of the run: 24 prompts, of which 30 %, 7, are held out."""
    folder, _ = finished_run
    metrics = json.loads((folder / "50-reward" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["train_pairs"] == 17
    assert set(metrics["by_source"]) == {"helpful.jsonl", "this run"}
    accuracies = [scores[0] for scores in metrics["by_source"].values()]
    assert sum(score["n"] + score["unscored"] for score in accuracies) == 7


def test_benign_prompts_keep_the_first_reply(finished_run: tuple[Path, float]) -> None:
    """By default only prompts of the other two kinds are criticised and revised."""
    folder, _ = finished_run
    kinds = {p.id: p.kind for p in rows(folder, "00-prompts.jsonl", Prompt)}
    for revision in rows(folder, "10-revisions.jsonl", Revision):
        assert bool(revision.rounds) == (kinds[revision.source] != "benign")


def test_scores_have_counts(finished_run: tuple[Path, float]) -> None:
    """Each mean has its count, 5 held-out prompts of a kind; a mean is null where no reply was
    scored.
    """
    folder, _ = finished_run
    scores = rows(folder, "70-scores.jsonl", Score)
    assert {"base", "sft", "policy"} <= {s.subject for s in scores}
    by_metric = {(s.metric, s.subject): s for s in scores}
    for kind in KINDS:
        for subject in ("base", "sft", "policy"):
            score = by_metric[f"refusal.incorrect_rate.{kind}", subject]
            assert (score.n, score.unscored) == (5, 0)
            assert score.mean is not None
            assert 0 <= score.mean <= 1
    unknown = {s.metric for s in scores if s.mean is None}
    # the relative change of a rate of 0 is undefined
    assert unknown <= {f"refusal.refusal_rate.{kind}.relative_change" for kind in KINDS}


def test_incorrect_rates_are_the_shares_of_the_replies(finished_run: tuple[Path, float]) -> None:
    """Counted again from the replies: the share of a kind that the rubric calls incorrect."""
    folder, _ = finished_run
    replies = rows(folder, "70-replies.jsonl", EvalReply)
    for score in rows(folder, "70-scores.jsonl", Score):
        for kind in KINDS:
            if score.metric == f"refusal.incorrect_rate.{kind}" and score.subject in (
                "base",
                "sft",
                "policy",
            ):
                mine = [
                    r.grade.correct
                    for r in replies
                    if r.subject == score.subject and r.kind == kind
                ]
                assert score.mean == pytest.approx(mine.count(False) / len(mine))


def test_the_metrics_of_ppo_are_kept(finished_run: tuple[Path, float]) -> None:
    folder, _ = finished_run
    metrics = ppo_metrics(folder)
    assert [row["update"] for row in metrics] == [0, 1, 2]
    assert metrics[0]["kl"] == 0
    names = {"reward.rubric", "kl", "sampler_gap"}
    assert all(names <= row.keys() for row in metrics)
    fitted = json.loads((folder / "50-reward" / "metrics.json").read_text(encoding="utf-8"))
    is_useful = fitted["log_loss"]["mean"] < math.log(2)
    assert all(("reward.pm" in row) is is_useful for row in metrics)


def test_every_metric_of_ppo_is_documented(finished_run: tuple[Path, float]) -> None:
    """Each name in metrics.jsonl has a row on the page of metrics."""
    names = {key for row in ppo_metrics(finished_run[0]) for key in row}
    assert "update" in names
    page = Path(__file__).parents[2] / "docs" / "reference" / "ppo-metrics.md"
    documented = set(
        re.findall(r"^\| `([^`]+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    )
    names = {re.sub(r"^reward\..+", "reward.NAME", name) for name in names}
    names = {re.sub(r"^reward_by_kind\..+", "reward_by_kind.KIND", name) for name in names}
    assert sorted(names - documented - {"update"}) == []


def test_a_finished_run_is_not_repeated(home: Path, finished_run: tuple[Path, float]) -> None:
    """No byte and no time of writing changes, except of the report, which is written again."""
    folder, _ = finished_run
    before = files_of(folder)
    paths = [folder / name for name in before if name != "report.html"]
    times = {path: path.stat().st_mtime_ns for path in paths}
    assert cai_run(home, folder) == 0
    assert {path: path.stat().st_mtime_ns for path in paths} == times
    assert files_of(folder) == before


def test_ratings_may_replace_the_preference_model(
    home: Path, finished_run: tuple[Path, float]
) -> None:
    """PPO alone, in a copy of the run, on the judge's ratings: the only reward, in [-1, 1]."""
    folder = home / "rated"
    shutil.copytree(finished_run[0], folder, ignore=shutil.ignore_patterns("60-*", "run.json"))
    weights = (
        "--set",
        "reward_weights.pm=0",
        "--set",
        "reward_weights.rubric=0",
        "--set",
        "reward_weights.direct=1",
    )
    assert cai_run(home, folder, "--from", "ppo", "--until", "ppo", *weights) == 0
    metrics = ppo_metrics(folder)
    assert len(metrics) == 3
    for row in metrics:
        parts = [key for key in row if key.startswith("reward.")]
        assert parts == ["reward.direct", "reward.missing_eos"]
        assert -1 <= row["reward.direct"] <= 1


def test_single_stages(
    home: Path, finished_run: tuple[Path, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """--until and --from together write the files of one run.

    Missing or unfinished inputs of a stage are errors.
    """
    folder = home / "parts"
    assert cai_run(home, folder, "--until", "revise") == 0
    names = {p.name for p in folder.iterdir()}
    assert "10-revisions.jsonl" in names
    assert "20-sft" not in names
    assert cai_run(home, folder, "--from", "pair", "--until", "pair") == 2
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f"cai: {folder}/20-sft: not made yet: run the stages before this one"
    )
    manifest = folder / "10-revisions.manifest.json"
    finished = manifest.read_text(encoding="utf-8")
    manifest.write_text(finished.replace('"finished": true', '"finished": false'), encoding="utf-8")
    assert cai_run(home, folder, "--from", "sft", "--until", "sft") == 2
    message = f"cai: {folder}/10-revisions.jsonl: only half made: finish the stage revise first"
    assert capsys.readouterr().err.splitlines()[-1] == message
    manifest.write_text(finished, encoding="utf-8")
    assert cai_run(home, folder, "--from", "sft", "--until", "pair") == 0
    for name in ("10-revisions.jsonl", "30-pairs.jsonl", "20-sft/model.safetensors"):
        assert (folder / name).read_bytes() == (finished_run[0] / name).read_bytes()


def test_kill_9_at_any_moment(home: Path, finished_run: tuple[Path, float]) -> None:
    """Killed four times at random moments over the length of a run, then resumed: all files are
    the same.
    """
    folder, seconds = home / "killed", finished_run[1]
    moments, killed = random.Random(8), 0
    for _ in range(4):
        # a forked process to be killed, without the seconds of importing torch
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = cai_run(home, folder)
            finally:
                os._exit(code)
        time.sleep(moments.uniform(0.05, 0.35) * seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        killed += os.WIFSIGNALED(status)
    assert killed >= 2
    assert cai_run(home, folder) == 0
    expected, files = files_of(finished_run[0]), files_of(folder)
    assert expected.keys() == files.keys()
    changed = {name for name in expected if files[name] != expected[name]}
    assert changed <= {"report.html"}


def test_two_processes_share_training(home: Path, finished_run: tuple[Path, float]) -> None:
    """Started by torchrun on one run folder: one lock, one fine-tuned model, one preference model,
    one policy, the numbers of one process to float tolerance.
    """
    folder, _ = finished_run
    two = home / "two"
    shutil.copytree(folder, two)
    for path in two.iterdir():
        if path.name >= "20" and path.name[:2].isdigit():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    options = ("--from", "sft", "--until", "ppo", "--set", f"folder={two}")
    run_two_processes("-m", "cai.cli", "run", home / "run.yaml", *options)
    for mine, theirs in zip(ppo_metrics(folder), ppo_metrics(two), strict=True):
        assert theirs["kl"] == pytest.approx(mine["kl"], abs=1e-3)
        assert theirs["reward"] == pytest.approx(mine["reward"], abs=1e-3)
    for name in ("20-sft", "50-reward", "60-policy"):
        text = (two / f"{name}.manifest.json").read_text(encoding="utf-8")
        assert Manifest.model_validate_json(text).finished
        (file,) = (two / name).glob("*.safetensors")
        weights = [load_file(file), load_file(folder / name / file.name)]
        assert all(
            torch.allclose(tensor, weights[1][key], atol=5e-5)
            for key, tensor in weights[0].items()
            if key != "head.bias"  # it adds the same to both replies of a pair
        )
