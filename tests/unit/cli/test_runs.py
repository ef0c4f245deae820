"""The command run: wrong settings, arguments and prompts; locks; edited constitutions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli_runner import ROOT, RUN, Capture, run_command, run_file, write_lines
from report_toys import reply

from cai import store
from cai.artifacts import REPLIES, SCORES, STAGES
from cai.cli import main
from cai.evals.refusal import refusal_scores
from cai.pipeline.config import load_run, save_run
from cai.pipeline.stages import RUN_STAGE
from cai.records import Row


def test_stages_are_those_of_the_line() -> None:
    assert list(RUN_STAGE) == list(STAGES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "updates:",
            "updatse:",
            "{run}:7: ppo.num_updatse: unknown key 'num_updatse': did you mean 'num_updates'?",
        ),
        ("fake:polite", "lokal:x", "model 'lokal:x': unknown form (did you mean 'local:'?)"),
        (
            "fake:polite",
            "fake:nobody",
            "model 'fake:nobody': no such fake; known: brief, echo, polite",
        ),
        ("fake:polite", "local:./nowhere", "./nowhere: no such model folder"),
        ("prompts.jsonl", "nobody.jsonl", "{run}:4: prompts: no such file: nobody.jsonl"),
        (
            "constitution: harmless",
            "constitution: harmles",
            "harmles: no such file, and no shipped constitution of that name",
        ),
        (
            "constitution: harmless",
            "constitution: helpful_honest",
            "helpful_honest.yaml: no rubric: a run gates, rewards and evaluates",
        ),
    ],
)
def test_wrong_runs(capsys: Capture, tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RUN
    file = run_file(tmp_path, RUN.replace(old, new))
    with pytest.raises(SystemExit) as ended:
        main(["run", str(file), "--until", "revise"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    *before, last = err.splitlines()
    assert message.format(run=file) in last
    # at most the stage before it was done
    assert all(line.split()[0] == "prompts" for line in before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--from", "labels"],
            "no such stage: labels; "
            "stages: prompts, revise, sft, pair, label, reward, ppo, eval, report",
        ),
        (["--until", "the end"], "no such stage: the end; stages: prompts"),
        (["--from", "ppo", "--until", "sft"], "--until sft comes before --from ppo"),
        (["--set", "ppo.num_updates"], "--set ppo.num_updates: expected key.path=value"),
        (["--set", "ppo.num_updatse=1"], "unknown key 'num_updatse': did you mean 'num_updates'?"),
        (["--set", "ppo.num_updates=[1"], "--set ppo.num_updates: the value is not YAML"),
    ],
)
def test_wrong_arguments(
    capsys: Capture, tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert message in run_command(capsys, "run", run_file(tmp_path), *arguments).usage_error
    assert not (tmp_path / "out").exists()


def test_wrong_prompts(capsys: Capture, tmp_path: Path) -> None:
    file = run_file(tmp_path, RUN, {"prompt": "a"}, '{"prompt": "b"')
    error = run_command(capsys, "run", file).usage_error
    assert error.startswith(f"{tmp_path}/prompts.jsonl:2: not JSON (")
    write_lines(tmp_path / "prompts.jsonl")
    error = run_command(capsys, "run", file).usage_error
    assert error == f"{tmp_path}/prompts.jsonl: no prompt in it; a run needs at least one"
    write_lines(tmp_path / "prompts.jsonl", {"prompt": "only one"})
    error = run_command(capsys, "run", file).usage_error
    assert "too few prompts to keep a share of 0.4 for evaluation" in error
    run_file(tmp_path)  # corrected, it runs: the failed runs left nothing behind
    assert run_command(capsys, "run", file, "--until", "prompts").code == 0


def test_another_constitution_in_the_same_folder(capsys: Capture, tmp_path: Path) -> None:
    """An edited principle is reported, and only its rows are made again.

    With another name, the error names what differs, and nothing is done.
    """
    constitution = tmp_path / "own.yaml"
    base = ROOT / "constitutions" / "harmless.yaml"

    def write(revision: str, name: str = "own", id: str = "mine") -> None:
        constitution.write_text(
            f"name: {name}\nversion: '1'\nextends: [{base}]\nprinciples:\n"
            f"  - {{id: {id}, category: x, critique: a, revision: {revision}}}\n",
            encoding="utf-8",
        )

    write("Say less.")
    file = run_file(tmp_path, RUN.replace("harmless", "own.yaml"))
    assert run_command(capsys, "run", file, "--until", "revise").code == 0
    before = (tmp_path / "out/10-revisions.jsonl").read_bytes()
    write("Say more.", name="mine")
    result = run_command(capsys, "run", file, "--from", "revise", "--until", "revise")
    assert (
        "10-revisions.jsonl: made with another constitution, principle:mine: run into a new folder"
        in result.usage_error
    )
    result = run_command(capsys, "run", file, "--until", "revise", "--set", "seed=5")
    prompts = f"{tmp_path}/out/00-prompts.jsonl"
    assert result.usage_error.startswith(f"{prompts}: made with another seed")
    assert (tmp_path / "out/10-revisions.jsonl").read_bytes() == before
    write("Say more.")
    result = run_command(capsys, "run", file, "--until", "revise")
    assert result.code == 0
    assert "revise: principles were edited (mine): " in result.err


def test_a_folder_in_use(capsys: Capture, tmp_path: Path) -> None:
    file = run_file(tmp_path)
    with store.locked(tmp_path / "out"):
        error = run_command(capsys, "run", file, "--until", "revise").usage_error
    in_use = f"{tmp_path}/out: in use by process {os.getpid()}"
    assert error == f"{in_use}; wait for it, or give another run folder"
    assert run_command(capsys, "run", file, "--until", "revise").code == 0


@pytest.mark.parametrize("name", ["quickstart", "hour", "endpoint"])
def test_the_example_runs_begin(capsys: Capture, tmp_path: Path, name: str) -> None:
    """Their settings, constitution and prompts are read; later stages take minutes or an hour."""
    file, folder = ROOT / "examples" / f"{name}.yaml", tmp_path / name
    result = run_command(capsys, "run", file, "--until", "prompts", "--set", f"folder={folder}")
    assert result.code == 0
    held_out = (folder / "01-held-out.jsonl").read_text(encoding="utf-8")
    assert len(held_out.splitlines()) > 3


def test_the_hour_begins_as_the_demo_does() -> None:
    """PPO starts from the same model in both, so that one can be compared with the other."""
    quick = load_run(ROOT / "examples" / "quickstart.yaml").run
    hour = load_run(ROOT / "examples" / "hour.yaml").run
    inputs = ("seed", "model", "constitution", "prompts", "held_out")
    stages = ("revise", "sft", "pair", "label", "reward")
    for key in (*inputs, *stages):
        assert getattr(quick, key) == getattr(hour, key), key


def test_training_wants_weights(capsys: Capture, tmp_path: Path) -> None:
    file = run_file(tmp_path)
    assert run_command(capsys, "run", file, "--until", "revise").code == 0
    error = run_command(capsys, "sft", file).usage_error
    assert error == "model: fake:polite: training needs weights: smollm2 or local:FOLDER_OR_HUB_ID"


def evaluated_run(tmp_path: Path, name: str, seed: int) -> Path:
    """The folder of a run with settings, and with replies of two models to two prompts."""
    settings = [f"name={name}", f"seed={seed}", f"folder={tmp_path / name}"]
    resolved = load_run(run_file(tmp_path, RUN), settings)
    resolved.folder.mkdir(exist_ok=True)
    save_run(resolved)
    replies = [
        reply(source, subject, correct=subject == "sft" or seed > 0)
        for subject in ("sft", "policy")
        for source in ("a", "b")
    ]
    write_rows(resolved.folder / REPLIES, replies)
    write_rows(resolved.folder / SCORES, refusal_scores(replies))
    return resolved.folder


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(row.line() + "\n" for row in rows), encoding="utf-8")


def test_several_runs_are_compared(capsys: Capture, tmp_path: Path) -> None:
    folders = [str(evaluated_run(tmp_path, f"seed-{i}", i)) for i in range(2)]
    output = tmp_path / "seeds.md"
    for _ in range(2):  # its file is replaced
        result = run_command(capsys, "report", *folders, "--output", output)
        assert (result.code, result.err) == (0, "")
    assert "seeds: 0, 1" in result.out
    assert "mean of 2 runs" in output.read_text(encoding="utf-8")
    result = run_command(capsys, "report", folders[0], folders[0])
    assert "a run that is given already" in result.usage_error
    result = run_command(capsys, "report", folders[0], "--output", output)
    assert "the report of one run is report.html in its folder" in result.usage_error
    (Path(folders[1]) / SCORES).unlink()
    result = run_command(capsys, "report", *folders)
    assert f"{SCORES}: not there yet" in result.usage_error
