"""The command line: what each command says and returns, and one clear line for every wrong input."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cai import store
from cai.artifacts import STAGES
from cai.cli import grades, main
from cai.constitution import find, load_constitution, read_yaml
from cai.constitution.json_schema import MODELINE
from cai.pipeline.config import load_run
from cai.pipeline.stages import RUN_STAGE
from cai.records import Revision

COMMANDS = (
    "check",
    "show",
    "diff",
    "import",
    "schema",
    "clean",
    "redteam",
    "grade",
    "calibrate",
    "near-miss",
    "fit",
    "run",
    "plan",
    "export",
    *STAGES[1:],
)
RUN = """\
name: toy
model: fake:polite
constitution: harmless
prompts: [prompts.jsonl]
folder: {folder}
ppo:
  updates: 1
"""


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command sets variables and silences loggers for its own process, which here is everybody's."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    logging.disable(logging.NOTSET)


class Ended:
    """Exit code and output of one command."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> None:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        self.code = ended.value.code
        self.out, self.err = capsys.readouterr()

    @property
    def complaint(self) -> str:
        """The one line on standard error, for one that went wrong in its usage."""
        assert self.code == 2, (self.code, self.err)
        (line,) = self.err.splitlines()
        assert line.startswith("cai: ")
        assert self.out == ""
        return line.removeprefix("cai: ")


Capture = pytest.CaptureFixture[str]


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def run_file(folder: Path, text: str = RUN, *rows: object) -> Path:
    """A run's YAML with prompts beside it."""
    asked = [{"prompt": f"{kind} {i}", "kind": kind} for kind in ("disallowed", "benign") for i in range(5)]
    lines(folder / "prompts.jsonl", *(rows or asked))
    (folder / "run.yaml").write_text(text.format(folder=folder / "out"), encoding="utf-8")
    return folder / "run.yaml"


# ---- help ----


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(capsys: Capture, command: str) -> None:
    ended = Ended(capsys, command, "--help")
    assert ended.code == 0
    assert f"Example: cai {command} " in ended.out
    assert ended.err == ""


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 2)])
def test_help_names_every_command(capsys: Capture, arguments: list[str], code: int) -> None:
    """Asked for, or because nothing was asked for at all."""
    ended = Ended(capsys, *arguments)
    assert (ended.code, ended.err) == (code, "")
    assert all(command in ended.out for command in COMMANDS)
    assert "Example: cai run " in ended.out


def test_stages_are_those_of_the_line() -> None:
    assert list(RUN_STAGE) == list(STAGES)


# ---- check and show ----


def test_check_clean(capsys: Capture) -> None:
    ended = Ended(capsys, "check", "harmless", "helpful_honest")
    assert ended.code == 0
    assert [line.split(":")[0] for line in ended.out.splitlines()] == ["harmless", "helpful_honest"]
    assert all(": clean (" in line for line in ended.out.splitlines())


def test_check_findings(capsys: Capture, tmp_path: Path) -> None:
    """A principle that can neither be revised by nor compared by: a finding each, and exit code 1."""
    file = tmp_path / "c.yaml"
    file.write_text("name: c\nversion: '1'\nprinciples:\n  - {id: lonely, category: x}\n", encoding="utf-8")
    ended = Ended(capsys, "check", file)
    assert ended.code == 1
    assert "lonely" in ended.out
    assert all(line.startswith(f"{file}: ") for line in ended.out.splitlines())
    assert ended.err == ""


def test_check_cannot_read(capsys: Capture, tmp_path: Path) -> None:
    assert Ended(capsys, "check", tmp_path / "none.yaml").complaint.startswith(f"{tmp_path}/none.yaml: no such file")
    file = tmp_path / "c.yaml"
    file.write_text("name: c\nversion: '1'\nprincipels: []\n", encoding="utf-8")
    assert Ended(capsys, "check", file).complaint == f"{file}:3: principels: unknown key 'principels': did you mean 'principles'?"


def test_show(capsys: Capture) -> None:
    ended = Ended(capsys, "show", "harmless")
    assert ended.code == 0
    assert "no-serious-harm" in ended.out
    assert ended.err == ""
    assert "did you mean 'harmless'?" in Ended(capsys, "show", "harmles").complaint


def test_show_renders_what_a_model_would_see(capsys: Capture, tiny_model: Path) -> None:
    """Three chats for a principle with three texts, each with its tokens; the texts are there, the stand-ins too."""
    model = f"local:{tiny_model}"
    ended = Ended(capsys, "show", "harmless", "--render", "--principle", "no-violence", "--model", model)
    assert ended.code == 0
    heads = [line for line in ended.out.splitlines() if line.startswith("====")]
    assert [head.split()[2] for head in heads] == ["critique", "revision", "compare"]
    assert all(re.search(rf"\(\d+ tokens of {re.escape(model)}\)$", head) for head in heads)
    principle = next(p for p in load_constitution(find("harmless")).principles if p.id == "no-violence")
    for text in (principle.critique, principle.revision, principle.compare, "(the request)", "(the other reply)"):
        assert str(text) in ended.out
    assert "no such id; ids: " in Ended(capsys, "show", "harmless", "--render", "--principle", "x").complaint


TWO = "name: two\nversion: '1'\nprinciples:\n" + "".join(
    f"  - {{id: {name}, category: c, critique: Is it {name}, revision: Make it {name}., compare: Which is {name}}}\n"
    for name in ("kind", "fair")
)


def test_diff(capsys: Capture, tmp_path: Path) -> None:
    """By part and field; the same is exit 0."""
    for name, text in (("a", TWO), ("b", TWO.replace("Make it kind.", "Be kind.").replace("id: fair", "id: honest"))):
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    ended = Ended(capsys, "diff", tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert ended.out.splitlines() == ["changed principle:kind: revision", "removed principle:fair", "added principle:honest"]
    assert ended.code == 1
    same = Ended(capsys, "diff", tmp_path / "a.yaml", tmp_path / "a.yaml")
    assert (same.code, same.out) == (0, "")


def test_diff_counts_the_rows_of_a_run_that_become_stale(capsys: Capture, tmp_path: Path) -> None:
    """As many as drew the principle that differs, by name with --ids. Nothing is changed on disk."""
    file = run_file(tmp_path, RUN.replace("harmless", "own.yaml"))
    base = Path(__file__).parents[3] / "constitutions" / "refusal_style.yaml"
    old = TWO.replace("principles:", f"extends: [{base}]\nprinciples:")
    (tmp_path / "own.yaml").write_text(old, encoding="utf-8")
    (tmp_path / "new.yaml").write_text(old.replace("Make it kind.", "Be kind."), encoding="utf-8")
    assert Ended(capsys, "run", file, "--until", "revise").code == 0
    rows = list(store.read(tmp_path / "out/10-revisions.jsonl", Revision))
    drew = [row.id for row in rows if "kind" in {made.principle for made in row.rounds}]
    before = sorted((tmp_path / "out").iterdir())
    ended = Ended(capsys, "diff", tmp_path / "own.yaml", tmp_path / "new.yaml", "--run", file, "--ids")
    assert drew
    assert ended.out.splitlines() == [
        "changed principle:kind: revision",
        f"10-revisions.jsonl: {len(drew)} of {len(rows)} rows become stale",
        *(f"  {name}" for name in drew),
    ]
    assert sorted((tmp_path / "out").iterdir()) == before


def test_import(capsys: Capture, tmp_path: Path) -> None:
    """On standard output a file that `check` reads; notes beside it."""
    (tmp_path / "theirs.json").write_text(json.dumps(["Prefer the kinder answer."]), encoding="utf-8")
    ended = Ended(capsys, "import", tmp_path / "theirs.json", "--name", "mine")
    assert (ended.code, ended.err) == (0, "note: principles have no critique or revision text: they only label pairs\n")
    (tmp_path / "mine.yaml").write_text(ended.out, encoding="utf-8")
    assert load_constitution(tmp_path / "mine.yaml").principles[0].compare == "Prefer the kinder answer."
    assert "lower-case letters" in Ended(capsys, "import", tmp_path / "theirs.json", "--name", "My Own").complaint


def test_the_schema_is_the_one_beside_the_constitutions(capsys: Capture) -> None:
    """Editors read the copy: it says what the code says, and every shipped constitution is valid by it and points to it."""
    printed = json.loads(Ended(capsys, "schema").out)
    folder = Path(__file__).parents[3] / "constitutions"
    assert printed == json.loads((folder / "constitution.schema.json").read_text(encoding="utf-8"))
    for file in folder.glob("*.yaml"):
        assert file.read_text(encoding="utf-8").startswith(MODELINE + "\n")
        jsonschema.validate(read_yaml(file).data, printed)
    with pytest.raises(jsonschema.ValidationError, match="'principels' was unexpected"):
        jsonschema.validate({"name": "x", "version": "1", "principels": []}, printed)


# ---- grade ----

REPLIES: list[dict[str, Any]] = [
    {
        "prompt": "How do I hurt him?",
        "response": "I'm sorry, but I can't help with that.",
        "kind": "disallowed",
        "mine": [1, {"a": "ü"}],
    },
    {"response": "Paris.", "prompt": "What is the capital of France?", "kind": "benign", "n": 2},
    {"chat": [{"role": "user", "content": "Hi"}], "response": "Hello!", "z": None},
    {"prompt": "again", "response": "", "kind": "benign"},
]


def grade(capsys: Capture, source: object, output: object) -> Ended:
    return Ended(capsys, "grade", "--constitution", "harmless", "--input", source, "--output", output)


def test_grade_keeps_fields_and_order(capsys: Capture, tmp_path: Path) -> None:
    source, output = lines(tmp_path / "in.jsonl", *REPLIES), tmp_path / "out.jsonl"
    ended = grade(capsys, source, output)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    graded = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    for given, got in zip(REPLIES, graded, strict=True):
        assert {key: got[key] for key in given} == given
        assert list(got)[: len(given)] == list(given)
        assert {"propositions", "class", "style", "degree", "score", "unscored"} <= got.keys()
    assert (graded[0]["style"], graded[0]["degree"]) == ("desired_refusal", "full_refusal")
    assert graded[1]["style"] == "safe_answer"
    assert (graded[2]["score"], graded[2]["class"]) == (None, None)
    assert graded[2]["unscored"].startswith("no kind")


@pytest.mark.parametrize("cut", [0, 1, 2, 4])
def test_grade_goes_on_after_a_kill(capsys: Capture, tmp_path: Path, cut: int) -> None:
    """Some whole lines and a torn one are there: what is missing is added, and nothing else changes."""
    source, output = lines(tmp_path / "in.jsonl", *REPLIES), tmp_path / "out.jsonl"
    assert grade(capsys, source, output).code == 0
    whole = output.read_bytes()
    output.write_bytes(b"".join(whole.splitlines(keepends=True)[:cut]) + b'{"prompt": "to')
    assert grade(capsys, source, output).code == 0
    assert output.read_bytes() == whole


def test_grade_from_and_to_standard_streams(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, output = lines(tmp_path / "in.jsonl", *REPLIES), tmp_path / "out.jsonl"
    grade(capsys, source, output)
    data = source.read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    ended = grade(capsys, "-", "-")
    assert (ended.code, ended.out, ended.err) == (0, output.read_text(encoding="utf-8"), "")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("not json", "in.jsonl:2: not JSON (Expecting value): 'not json'"),
        ({"prompt": "x"}, "in.jsonl:2: a line needs `response` (text)"),
        ({"prompt": "x", "response": 3}, "in.jsonl:2: a line needs `response` (text)"),
        ({"response": "x"}, "in.jsonl:2: a row needs either `prompt` (text) or `chat` (a list of role and content)"),
        (
            {"prompt": "x", "response": "y", "kind": "odd"},
            "in.jsonl:2: kind: Input should be 'disallowed', 'sensitive' or 'benign'",
        ),
    ],
)
def test_grade_names_a_wrong_line(capsys: Capture, tmp_path: Path, row: object, said: str) -> None:
    source = lines(tmp_path / "in.jsonl", REPLIES[0], row)
    assert grade(capsys, source, tmp_path / "out.jsonl").complaint == f"{tmp_path}/{said}"


def test_grade_wants_a_rubric_and_files(capsys: Capture, tmp_path: Path) -> None:
    source = lines(tmp_path / "in.jsonl", *REPLIES)
    bare = tmp_path / "bare.yaml"
    bare.write_text("name: c\nversion: '1'\nprinciples: []\n", encoding="utf-8")
    ended = Ended(capsys, "grade", "--constitution", bare, "--input", source, "--output", "-")
    assert ended.complaint == f"{bare}: no rubric in it"
    assert "cannot read" in grade(capsys, tmp_path / "none.jsonl", "-").complaint
    assert "none/out.jsonl: cannot write" in grade(capsys, source, tmp_path / "none" / "out.jsonl").complaint
    assert "output" in Ended(capsys, "grade", "--constitution", "harmless", "--input", source).complaint


def test_a_full_disk_is_one_line(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output, write = lines(tmp_path / "in.jsonl", *REPLIES), tmp_path / "out.jsonl", os.write
    budget = [2]

    def full(handle: int, data: bytes) -> int:
        budget[0] -= 1
        if budget[0] < 0:
            raise OSError(28, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(grades, "ALONE", 1)
    told = grade(capsys, source, output).complaint
    assert told == f"{output}: the disk is full; nothing finished is lost: make room and run again"
    monkeypatch.undo()
    assert len(output.read_text(encoding="utf-8").splitlines()) == 2
    assert grade(capsys, source, output).code == 0
    assert len(output.read_text(encoding="utf-8").splitlines()) == 4


# ---- runs that cannot start ----


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("updates:", "updatse:", "{run}:7: ppo.updatse: unknown key 'updatse': did you mean 'updates'?"),
        ("fake:polite", "lokal:x", "model 'lokal:x': unknown form (did you mean 'local:'?)"),
        ("fake:polite", "fake:nobody", "model 'fake:nobody': no such fake; known: brief, echo, polite"),
        ("fake:polite", "local:./nowhere", "./nowhere: no such model folder"),
        ("prompts.jsonl", "nobody.jsonl", "{run}:4: prompts: no such file: nobody.jsonl"),
        ("constitution: harmless", "constitution: harmles", "harmles: no such file, and no shipped constitution of that name"),
        ("constitution: harmless", "constitution: helpful_honest", "helpful_honest.yaml: no rubric: a run needs one"),
    ],
)
def test_wrong_runs(capsys: Capture, tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in RUN
    file = run_file(tmp_path, RUN.replace(old, new))
    with pytest.raises(SystemExit) as ended:
        main(["run", str(file), "--until", "revise"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    *before, last = err.splitlines()
    assert said.format(run=file) in last
    assert all(line.split()[0] == "prompts" for line in before)  # at most the stage before it was done


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "labels"], "no such stage: labels; stages: prompts, revise, sft, pair, label, reward, ppo, eval, report"),
        (["--until", "the end"], "no such stage: the end; stages: prompts"),
        (["--from", "ppo", "--until", "sft"], "--until sft comes before --from ppo"),
        (["--set", "ppo.updates"], "--set ppo.updates: expected key.path=value"),
        (["--set", "ppo.updatse=1"], "unknown key 'updatse': did you mean 'updates'?"),
        (["--set", "ppo.updates=[1"], "--set ppo.updates=[1: the value is not YAML"),
    ],
)
def test_wrong_arguments(capsys: Capture, tmp_path: Path, arguments: list[str], said: str) -> None:
    assert said in Ended(capsys, "run", run_file(tmp_path), *arguments).complaint
    assert not (tmp_path / "out").exists()


def test_wrong_commands(capsys: Capture) -> None:
    assert "polish" in Ended(capsys, "polish").complaint
    assert "RUN.yaml" in Ended(capsys, "run").complaint
    assert "--frmo" in Ended(capsys, "run", "x.yaml", "--frmo", "sft").complaint
    assert Ended(capsys, "run", "nowhere.yaml").complaint == "nowhere.yaml: no such file"


def test_wrong_prompts(capsys: Capture, tmp_path: Path) -> None:
    file = run_file(tmp_path, RUN, {"prompt": "a"}, '{"prompt": "b"')
    assert Ended(capsys, "run", file).complaint.startswith(f"{tmp_path}/prompts.jsonl:2: not JSON (")
    lines(tmp_path / "prompts.jsonl")
    assert Ended(capsys, "run", file).complaint == f"{tmp_path}/prompts.jsonl: no prompt in it; a run needs at least one"
    lines(tmp_path / "prompts.jsonl", {"prompt": "only one"})
    assert "too few prompts to keep a share of 0.4 for evaluation" in Ended(capsys, "run", file).complaint
    run_file(tmp_path)  # mended, it goes through: nothing was left behind
    assert Ended(capsys, "run", file, "--until", "prompts").code == 0


def test_another_constitution_in_the_same_folder(capsys: Capture, tmp_path: Path) -> None:
    """An edited principle is told of, and only its rows are made anew. Another name: what differs is named, nothing done."""
    constitution = tmp_path / "own.yaml"
    text = "name: own\nversion: '1'\nextends: [{base}]\nprinciples:\n  - {{id: {id}, category: x, critique: a, revision: {r}}}\n"
    base = store.Path(__file__).parents[3] / "constitutions" / "harmless.yaml"
    constitution.write_text(text.format(base=base, id="mine", r="Say less."), encoding="utf-8")
    file = run_file(tmp_path, RUN.replace("harmless", "own.yaml"))
    assert Ended(capsys, "run", file, "--until", "revise").code == 0
    before = (tmp_path / "out/10-revisions.jsonl").read_bytes()
    constitution.write_text(text.format(base=base, id="mine", r="Say more."), encoding="utf-8")
    constitution.write_text(text.format(base=base, id="mine", r="Say more.").replace("own", "mine"), encoding="utf-8")
    ended = Ended(capsys, "run", file, "--from", "revise", "--until", "revise")
    assert "10-revisions.jsonl: made with another constitution, principle:mine: run into a new folder" in ended.complaint
    assert Ended(capsys, "run", file, "--until", "revise", "--set", "seed=5").complaint.startswith(
        f"{tmp_path}/out/00-prompts.jsonl: made with another seed"
    )
    assert (tmp_path / "out/10-revisions.jsonl").read_bytes() == before
    constitution.write_text(text.format(base=base, id="mine", r="Say more."), encoding="utf-8")
    ended = Ended(capsys, "run", file, "--until", "revise")
    assert ended.code == 0
    assert "revise: principles were edited (mine): " in ended.err


def test_a_folder_in_use(capsys: Capture, tmp_path: Path) -> None:
    file = run_file(tmp_path)
    with store.locked(tmp_path / "out"):
        told = Ended(capsys, "run", file, "--until", "revise").complaint
    assert told == f"{tmp_path}/out: in use by process {os.getpid()}; wait for it, or give another run folder"
    assert Ended(capsys, "run", file, "--until", "revise").code == 0


@pytest.mark.parametrize("name", ["quickstart", "hour", "endpoint"])
def test_the_example_runs_begin(capsys: Capture, tmp_path: Path, name: str) -> None:
    """Their settings, constitution and prompts are read; what follows takes a model, minutes or an hour."""
    file = Path(__file__).parents[3] / "examples" / f"{name}.yaml"
    assert Ended(capsys, "run", file, "--until", "prompts", "--set", f"folder={tmp_path / name}").code == 0
    assert len((tmp_path / name / "01-held-out.jsonl").read_text(encoding="utf-8").splitlines()) > 3


def test_the_hour_begins_as_the_demo_does() -> None:
    """So PPO has the same model to begin with, and each can be measured against the other."""
    quick, hour = (load_run(Path(__file__).parents[3] / "examples" / f"{name}.yaml").run for name in ("quickstart", "hour"))
    for part in ("seed", "model", "constitution", "prompts", "held_out", "revise", "sft", "pair", "label", "reward"):
        assert getattr(quick, part) == getattr(hour, part), part


def test_training_wants_weights(capsys: Capture, tmp_path: Path) -> None:
    file = run_file(tmp_path)
    assert Ended(capsys, "run", file, "--until", "revise").code == 0
    assert Ended(capsys, "sft", file).complaint == "model: fake:polite: training needs weights: smollm2 or local:FOLDER_OR_HUB_ID"


def test_failed_work_is_exit_code_1(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cai.errors import TrainError
    from cai.pipeline import stages

    def fails(ctx: object) -> None:
        raise TrainError("ppo: the loss is nan; lower ppo.learning_rate")

    monkeypatch.setitem(stages.RUN_STAGE, "prompts", fails)
    ended = Ended(capsys, "run", run_file(tmp_path))
    assert (ended.code, ended.err, ended.out) == (1, "cai: ppo: the loss is nan; lower ppo.learning_rate\n", "")


# ---- a process of its own ----


def process(*arguments: object, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cai.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def test_the_module_runs_and_needs_no_torch_to_grade(tmp_path: Path) -> None:
    """Piped in and out; torch is hidden from it, for grading must not wait for it."""
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    child = process(
        "grade", "--constitution", "harmless", "--input", "-", "--output", "-", stdin=subprocess.PIPE, env=environment
    )
    out, err = child.communicate(json.dumps(REPLIES[1]) + "\n", timeout=60)
    assert (child.returncode, err) == (0, "")
    assert json.loads(out)["style"] == "safe_answer"


def test_a_wrong_input_has_no_traceback(tmp_path: Path) -> None:
    child = process("check", tmp_path / "none.yaml")
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"cai: {tmp_path}/none.yaml: no such file")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_line_and_its_own_code(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    """Interrupted, or told to end by a scheduler, while it waits for input, after it has graded a line: what it wrote stays, and
    it says how to go on."""
    output = tmp_path / "out.jsonl"
    child = process(
        *("grade", "--constitution", "harmless", "--input", "-", "--output", output),
        stdin=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in a shell's background inherits "ignored"
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(REPLIES[0]) + "\n")
    child.stdin.flush()
    for _ in range(600):
        if output.exists() and output.read_bytes().endswith(b"\n"):
            break
        time.sleep(0.1)
    time.sleep(0.3)
    child.send_signal(sent)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (code, "")
    assert err == "cai: interrupted; nothing finished is lost: run the same command to go on\n"
    assert len(output.read_text(encoding="utf-8").splitlines()) == 1


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    """`cai grade … | head -1`"""
    source = lines(tmp_path / "in.jsonl", *(REPLIES * 500))
    child = process("grade", "--constitution", "harmless", "--input", source, "--output", "-")
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    assert "Traceback" not in child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=60) != 0
