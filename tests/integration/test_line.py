"""The whole line, from prompts to report, on the tiny model: every artefact, nothing done twice,
and kills that change nothing.

The constitution here accepts nearly anything that the tiny model may say: what is tested is the
wiring, not behaviour.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cai.cli import main
from cai.records import EvalReply, Pair, Preference, Prompt, Revision, Score, chat_of
from cai.store import Manifest, read_rows
from cai.train.sft import SFTConfig, sft

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

# of the trainer and its data library, about each other
pytestmark = pytest.mark.filterwarnings("ignore")


def walk(file: Path, *more: str) -> int:
    """`cai run`, in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["run", str(file), *more])
    logging.disable(logging.NOTSET)
    return int(ended.value.code or 0)


def made(folder: Path) -> dict[str, bytes]:
    """Every file of a run folder but the lock."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


@pytest.fixture(scope="module")
def home(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that a run needs; its model has learnt to say short things and to stop, as
    a chat model does.
    """
    home = tmp_path_factory.mktemp("line")
    said = ["yes.", "no.", "ok.", "hi.", "why?", "me too."]
    examples = [
        (chat_of(("user", f"{kind} {i}")), said[i]) for kind in KINDS for i in range(len(said))
    ]
    config = SFTConfig(mode="full", learning_rate=1e-2, epochs=16, batch_size=9)
    sft(
        str(tiny_model), examples, config, home / "model", seed=0, progress=lambda done, total: None
    )
    (home / "lenient.yaml").write_text(CONSTITUTION, encoding="utf-8")
    (home / "run.yaml").write_text(RUN.format(model=home / "model"), encoding="utf-8")
    others = [
        {"prompt": f"what is {i}", "first": "a number.", "second": "no.", "p_first": 1.0}
        for i in range(12)
    ]
    (home / "helpful.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in others), encoding="utf-8"
    )
    lines = [
        json.dumps({"prompt": f"{kind} {i}", "kind": kind, "category": "c"})
        for kind in KINDS
        for i in range(12)
    ]
    (home / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def whole(home: Path) -> tuple[Path, float]:
    """(the folder of an uninterrupted run, seconds it took)"""
    started = time.monotonic()
    assert walk(home / "run.yaml", "--set", f"folder={home}/whole") == 0
    return home / "whole", time.monotonic() - started


def rows(folder: Path, name: str, kind: Any) -> list[Any]:
    return list(read_rows(folder / name, kind))


def test_every_artefact_is_there_and_finished(whole: tuple[Path, float]) -> None:
    folder, _ = whole
    there = {p.name for p in folder.iterdir()} - {".lock"}
    assert there == ARTEFACTS | {f"{name}.manifest.json" for name in MANIFESTS}
    for name in MANIFESTS:
        manifest = Manifest.model_validate_json(
            (folder / f"{name}.manifest.json").read_text(encoding="utf-8")
        )
        assert manifest.finished
        assert manifest.provenance
        assert {"cai", "torch", "transformers"} <= manifest.versions.keys()
    assert (
        (folder / "report.html")
        .read_text(encoding="utf-8")
        .lstrip()
        .lower()
        .startswith("<!doctype html")
    )


def test_rows_name_what_they_come_from(whole: tuple[Path, float]) -> None:
    """A dozen prompts of a kind, two fifths of them (4.8, so 5) held out: 21 and 15. Each later row
    names an earlier one.
    """
    folder, _ = whole
    learn, held = (
        rows(folder, "00-prompts.jsonl", Prompt),
        rows(folder, "01-held-out.jsonl", Prompt),
    )
    assert (len(learn), len(held)) == (21, 15)
    ids, held_ids = [p.id for p in learn], [p.id for p in held]
    assert not set(ids) & set(held_ids)
    assert [p.kind for p in held] == [kind for kind in KINDS for _ in range(5)]
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
    assert all(
        (r.kl is not None) == (r.subject == "policy") and r.reward is not None for r in replies
    )


def test_preferences_of_others_are_half_of_what_the_reward_learns_from(
    whole: tuple[Path, float],
) -> None:
    """Twelve, and as many of the run: 24, of which 30 % of the prompts, 7, are held out."""
    folder, _ = whole
    told = json.loads((folder / "50-reward" / "metrics.json").read_text(encoding="utf-8"))
    assert told["train_pairs"] == 17
    assert set(told["by_source"]) == {"helpful.jsonl", "this run"}
    assert sum(own[0]["n"] + own[0]["unscored"] for own in told["by_source"].values()) == 7


def test_benign_prompts_keep_the_first_reply(whole: tuple[Path, float]) -> None:
    """By default only the other two kinds are criticised and revised."""
    folder, _ = whole
    kinds = {p.id: p.kind for p in rows(folder, "00-prompts.jsonl", Prompt)}
    for revision in rows(folder, "10-revisions.jsonl", Revision):
        assert bool(revision.rounds) == (kinds[revision.source] != "benign")


def test_scores_have_counts(whole: tuple[Path, float]) -> None:
    """No mean without its count: 5 held-out prompts of a kind, and a mean only where something was
    scored.
    """
    folder, _ = whole
    scores = rows(folder, "70-scores.jsonl", Score)
    assert {"base", "sft", "policy"} <= {s.subject for s in scores}
    by = {(s.metric, s.subject): s for s in scores}
    for kind in KINDS:
        for subject in ("base", "sft", "policy"):
            score = by[f"refusal.incorrect_rate.{kind}", subject]
            assert (score.n, score.unscored) == (5, 0)
            assert score.mean is not None
            assert 0 <= score.mean <= 1
    unknown = {s.metric for s in scores if s.mean is None}
    # a change of nothing has no ratio
    assert unknown <= {f"refusal.refusal_rate.{kind}.relative_change" for kind in KINDS}


def test_incorrect_rates_are_the_shares_of_the_replies(whole: tuple[Path, float]) -> None:
    """Counted again from the replies: whatever the rubric calls incorrect, over all of a kind."""
    folder, _ = whole
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


def test_the_metrics_of_ppo_are_kept(whole: tuple[Path, float]) -> None:
    folder, _ = whole
    lines = [
        json.loads(line)
        for line in (folder / "60-policy/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["update"] for row in lines] == [0, 1, 2]
    assert lines[0]["kl"] == 0
    assert all(
        {"reward.pm", "reward.rubric", "kl", "first_ratio_error"} <= row.keys() for row in lines
    )


def test_every_metric_of_ppo_is_documented(whole: tuple[Path, float]) -> None:
    """Each name in metrics.jsonl has a row on the page of metrics."""
    lines = (whole[0] / "60-policy" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    names = {key for line in lines for key in json.loads(line)}
    if "update" not in names:
        pytest.skip("the page uses names that the metrics are about to get")
    page = Path(__file__).parents[2] / "docs" / "reference" / "ppo-metrics.md"
    told = set(re.findall(r"^\| `([^`]+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE)) | {
        "update"
    }
    general = {
        re.sub(
            r"^reward\..+", "reward.NAME", re.sub(r"^reward_by_kind\..+", "reward_by_kind.KIND", n)
        )
        for n in names
    }
    assert sorted(general - told) == []


def test_run_again_nothing_is_made_anew(home: Path, whole: tuple[Path, float]) -> None:
    """Not a byte and not a time of writing, but for the report, which is written from the files
    each time.
    """
    folder, _ = whole
    before, files = (
        made(folder),
        [p for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", "report.html")],
    )
    times = {p: p.stat().st_mtime_ns for p in files}
    assert walk(home / "run.yaml", "--set", f"folder={folder}") == 0
    assert {p: p.stat().st_mtime_ns for p in files} == times
    assert made(folder) == before


def test_a_rating_may_stand_for_the_preference_model(home: Path, whole: tuple[Path, float]) -> None:
    """PPO alone, in a copy of the run, on the judge's ratings: they are all of the reward, in [-1,
    1].
    """
    folder = home / "rated"
    shutil.copytree(whole[0], folder, ignore=shutil.ignore_patterns("60-*", "run.json"))
    weights = (
        "--set",
        "reward_weights.pm=0",
        "--set",
        "reward_weights.rubric=0",
        "--set",
        "reward_weights.direct=1",
    )
    assert (
        walk(
            home / "run.yaml",
            "--set",
            f"folder={folder}",
            "--from",
            "ppo",
            "--until",
            "ppo",
            *weights,
        )
        == 0
    )
    steps = [
        json.loads(line)
        for line in (folder / "60-policy/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(steps) == 3
    for step in steps:
        assert [key for key in step if key.startswith("reward.")] == [
            "reward.direct",
            "reward.missing_eos",
        ]
        assert -1 <= step["reward.direct"] <= 1


def test_a_part_of_the_line(
    home: Path, whole: tuple[Path, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """--until stops, --from goes on from the files, and together they give what one walk gives. A
    stage whose input is not there, or only half made, says so."""
    folder = home / "parts"
    assert walk(home / "run.yaml", "--set", f"folder={folder}", "--until", "revise") == 0
    names = {p.name for p in folder.iterdir()}
    assert "10-revisions.jsonl" in names
    assert "20-sft" not in names
    assert (
        walk(home / "run.yaml", "--set", f"folder={folder}", "--from", "pair", "--until", "pair")
        == 2
    )
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f"cai: {folder}/20-sft: not made yet: run the stages before this one"
    )
    manifest = folder / "10-revisions.manifest.json"
    finished = manifest.read_text(encoding="utf-8")
    manifest.write_text(finished.replace('"finished": true', '"finished": false'), encoding="utf-8")
    assert (
        walk(home / "run.yaml", "--set", f"folder={folder}", "--from", "sft", "--until", "sft") == 2
    )
    told = f"cai: {folder}/10-revisions.jsonl: only half made: finish the stage revise first"
    assert capsys.readouterr().err.splitlines()[-1] == told
    manifest.write_text(finished, encoding="utf-8")
    assert (
        walk(home / "run.yaml", "--set", f"folder={folder}", "--from", "sft", "--until", "pair")
        == 0
    )
    for name in ("10-revisions.jsonl", "30-pairs.jsonl", "20-sft/model.safetensors"):
        assert (folder / name).read_bytes() == (whole[0] / name).read_bytes()


def test_kill_9_at_any_moment(home: Path, whole: tuple[Path, float]) -> None:
    """Killed four times at moments drawn anew over the length of a whole run, then left to finish:
    every file is the same.
    """
    folder, seconds = home / "killed", whole[1]
    moments, killed = random.Random(8), 0
    for _ in range(4):
        # a process of its own to be killed, without the seconds that importing torch takes
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = walk(home / "run.yaml", "--set", f"folder={folder}")
            finally:
                os._exit(code)
        time.sleep(moments.uniform(0.05, 0.35) * seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        killed += os.WIFSIGNALED(status)
    assert killed >= 2
    assert walk(home / "run.yaml", "--set", f"folder={folder}") == 0
    want, got = made(whole[0]), made(folder)
    assert want.keys() == got.keys()
    assert [name for name in want if want[name] != got[name] and name != "report.html"] == []


def test_two_processes_walk_ppo_together(home: Path, whole: tuple[Path, float]) -> None:
    """As torchrun starts them, on one run's folder: one lock, one policy, the numbers of one
    process to float tolerance.
    """
    folder, _ = whole
    two = home / "two"
    shutil.copytree(folder, two)
    # SFT is walked by the first process alone, and its files are the same again
    for name in ("20-sft", "60-policy"):
        shutil.rmtree(two / name)
        (two / f"{name}.manifest.json").unlink()
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "cai.cli",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    given = [
        "run",
        str(home / "run.yaml"),
        "--from",
        "sft",
        "--until",
        "ppo",
        "--set",
        f"folder={two}",
    ]
    done = subprocess.run(
        [*command, *given], capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone, pair = (
        (f / "60-policy" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        for f in (folder, two)
    )
    for mine, theirs in zip(map(json.loads, alone), map(json.loads, pair), strict=True):
        assert theirs["kl"] == pytest.approx(mine["kl"], abs=1e-3)
        assert theirs["reward"] == pytest.approx(mine["reward"], abs=1e-3)
    assert Manifest.model_validate_json(
        (two / "60-policy.manifest.json").read_text(encoding="utf-8")
    ).finished
    weights = [load_file(f / "60-policy" / "model.safetensors") for f in (folder, two)]
    assert all(
        torch.allclose(tensor, weights[1][name], atol=5e-5) for name, tensor in weights[0].items()
    )
