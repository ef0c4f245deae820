"""A run's YAML: paths, defaults, located mistakes, and overrides from the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from cai.constitution.load import SHIPPED
from cai.errors import ConfigError, StoreError
from cai.pipeline.config import Run, load_run, save_run
from cai.reward.composite import RewardWeights

GOOD = """\
name: small
constitution: mine.yaml
prompts: [asked/a.jsonl, b.jsonl]
model: local:somewhere
ppo:
  num_updates: 3
  kl: {coef: 0.1}
"""


def write_run(folder: Path, text: str = GOOD) -> Path:
    (folder / "asked").mkdir(exist_ok=True)
    for name in ("asked/a.jsonl", "b.jsonl", "mine.yaml"):
        (folder / name).write_text("", encoding="utf-8")
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_settings_of_a_file(tmp_path: Path) -> None:
    """Paths are relative to the file; missing keys have their defaults; nested sections are the
    settings of stages.
    """
    loaded = load_run(write_run(tmp_path))
    assert loaded.prompts == (tmp_path / "asked/a.jsonl", tmp_path / "b.jsonl")
    assert loaded.constitution == tmp_path / "mine.yaml"
    assert loaded.folder == Path("runs/small")
    assert (loaded.run.ppo.num_updates, loaded.run.ppo.kl.coef, loaded.run.ppo.kl.target) == (
        3,
        0.1,
        None,
    )
    assert (loaded.run.seed, loaded.run.judge, loaded.run.model) == (0, None, "local:somewhere")


def test_paths_do_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Except for the artefacts, which are written below it."""
    file = write_run(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load_run(Path("..") / file.name)
    assert all(path.exists() for path in loaded.prompts)
    assert loaded.constitution.samefile(tmp_path / "mine.yaml")
    assert loaded.folder == Path("runs/small")


def test_absolute_paths_and_shipped_constitutions(tmp_path: Path) -> None:
    text = GOOD.replace("mine.yaml", "harmless").replace("b.jsonl", str(tmp_path / "b.jsonl"))
    loaded = load_run(write_run(tmp_path, text + f"folder: {tmp_path}/out\n"))
    assert loaded.constitution == SHIPPED / "harmless.yaml"
    assert loaded.prompts[1] == tmp_path / "b.jsonl"
    assert loaded.folder == tmp_path / "out"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  num_updates: 3",
            "  num_updatse: 3",
            r":6: ppo\.num_updatse: unknown key 'num_updatse': did you mean 'num_updates'\?",
        ),
        (
            "{coef: 0.1}",
            "{coefs: 0.1}",
            r":7: ppo\.kl\.coefs: unknown key 'coefs': did you mean 'coef'\?",
        ),
        ("model:", "modle:", r":4: modle: unknown key 'modle': did you mean 'model'\?"),
        (
            "num_updates: 3",
            "num_updates: many",
            r":6: ppo\.num_updates: must be a whole number, got the text 'many'",
        ),
        (
            "num_updates: 3",
            "num_updates: -1",
            r":6: ppo\.num_updates: must be at least 0, got the number -1",
        ),
        (
            "  num_updates: 3\n  kl: {coef: 0.1}\n",
            "  [3]\n",
            r":5: ppo: must be a mapping \(key: value lines\), got a list",
        ),
        ("[asked/a.jsonl, b.jsonl]", "[]", r":3: prompts: needs at least 1 item\(s\), got 0"),
        ("name: small", "name: ../up", r":1: name: '\.\./up' must be "),
        (
            "num_updates: 3",
            "optimization: {num_minibatches: 7}",
            r":5: ppo: .*responses_per_prompt = 64 is not a multiple of .*num_minibatches = 7",
        ),
        ("name: small\n", "", r":1: (name: )?the key 'name' is missing"),
        ("num_updates: 3", "num_updates: [3", r":7: not valid YAML"),
        (
            "constitution: mine.yaml",
            "constitution: nobody",
            r"nobody: no such file, and no shipped constitution of that name",
        ),
    ],
)
def test_mistakes_are_named_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=message) as caught:
        load_run(write_run(tmp_path, GOOD.replace(old, new)))
    assert len(str(caught.value).splitlines()) == 1
    assert new == "constitution: nobody" or str(caught.value).startswith(f"{tmp_path}/run.yaml:")


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("model:", "modle:").replace("num_updates: 3", "num_updates: x")
    with pytest.raises(ConfigError) as caught:
        load_run(write_run(tmp_path, text))
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["4", "6"]


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load_run(tmp_path / "nowhere.yaml")
    file = write_run(tmp_path)
    (tmp_path / "b.jsonl").unlink()
    message = re.escape(f"{file}:3: prompts: no such file: b.jsonl (looked for {tmp_path}/b.jsonl)")
    with pytest.raises(StoreError, match=message):
        load_run(file)


def test_a_missing_evaluation_file_is_named(tmp_path: Path) -> None:
    text = GOOD + "hygiene:\n  against: [none.jsonl]\n"
    with pytest.raises(StoreError) as caught:
        load_run(write_run(tmp_path, text))
    assert str(caught.value) == (
        f"{tmp_path}/run.yaml:9: hygiene.against: no such file: none.jsonl "
        f"(looked for {tmp_path}/none.jsonl)"
    )


def test_a_reward_without_a_weighted_part_is_refused() -> None:
    with pytest.raises(ValidationError, match="every weight is 0"):
        RewardWeights(pm=0, rubric=0)
    run = {
        "name": "x",
        "constitution": "c.yaml",
        "prompts": ["p.jsonl"],
        "ppo": {"critic": "reward"},
    }
    assert Run.model_validate(run).ppo.critic == "reward"
    with pytest.raises(ValidationError, match="which reward_weights\\.pm: 0 leaves out"):
        Run.model_validate(run | {"reward_weights": {"pm": 0}})


# ---- overrides ----


def test_overrides(tmp_path: Path) -> None:
    """Values are YAML; missing sections are added; the last of two values wins; the file does not
    change.
    """
    file = write_run(tmp_path)
    settings = [
        "ppo.num_updates=20",
        "ppo.kl.target=2.5",
        "sft.mode=full",
        "seed=1",
        "seed=7",
        "judge=null",
        "ppo.num_trainable_layers=",
    ]
    loaded = load_run(file, settings)
    assert (loaded.run.ppo.num_updates, loaded.run.ppo.kl.target, loaded.run.ppo.kl.coef) == (
        20,
        2.5,
        0.1,
    )
    assert (
        loaded.run.sft.mode,
        loaded.run.seed,
        loaded.run.judge,
        loaded.run.ppo.num_trainable_layers,
    ) == ("full", 7, None, None)
    assert load_run(file, ["prompts=[b.jsonl]"]).prompts == (tmp_path / "b.jsonl",)
    assert load_run(file, [f"folder={tmp_path}/a=b"]).folder == tmp_path / "a=b"
    assert file.read_text(encoding="utf-8") == GOOD
    assert load_run(file).run.ppo.num_updates == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("ppo.num_updates", r"--set ppo\.num_updates: expected key\.path=value, for example"),
        ("=3", r"--set =: expected key\.path=value"),
        ("ppo..num_updates=3", r"expected key\.path=value"),
        ("prompts.0=x", r"expected key\.path=value"),
        ("ppo.num_updates=[3", r"--set ppo\.num_updates: the value is not YAML"),
        ("seed=!!python/object/apply:os.getcwd []", r"the value is not YAML"),
        ("name.first=x", r"--set name\.first: name is not a section"),
        (
            "ppo.num_updatse=3",
            r":5: ppo\.num_updatse: unknown key 'num_updatse': did you mean 'num_updates'\?",
        ),
        ("ppo.num_updates=many", r"ppo\.num_updates: must be a whole number, got the text 'many'"),
        ("ppo=3", r"ppo: must be a mapping \(key: value lines\), got the number 3"),
    ],
)
def test_wrong_overrides(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_run(write_run(tmp_path), [setting])
    assert len(str(caught.value).splitlines()) == 1


def test_a_runs_folder_stands_for_its_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the last command, in any working directory. Refused: overrides, and a folder
    without settings.
    """
    (tmp_path / "prompts.jsonl").write_text("")
    file = tmp_path / "run.yaml"
    file.write_text("name: toy\nconstitution: harmless\nprompts: [prompts.jsonl]\n")
    loaded = load_run(file, [f"folder={tmp_path / 'out'}", "ppo.num_updates=3"])
    loaded.folder.mkdir()
    save_run(loaded)
    monkeypatch.chdir("/")
    again = load_run(tmp_path / "out")
    assert (again.run.ppo.num_updates, again.folder) == (3, tmp_path / "out")
    assert again.prompts == (tmp_path / "prompts.jsonl",)
    assert again.constitution == loaded.constitution.resolve()
    before = (tmp_path / "out" / "run.json").stat().st_mtime_ns
    save_run(again)
    assert (tmp_path / "out" / "run.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="give the run's YAML with --set"):
        load_run(tmp_path / "out", ["seed=1"])
    with pytest.raises(StoreError, match="no run in it"):
        load_run(tmp_path)
    (tmp_path / "out" / "run.json").write_text("{}")
    with pytest.raises(StoreError, match="not the settings of a run"):
        load_run(tmp_path / "out")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seed=1:30", "seed: must be a whole number, got the text '1:30'"),
        ("seed=2024-01-01", "seed: must be a whole number, got the text '2024-01-01'"),
        ("seed=2024-13-45", "seed: must be a whole number, got the text '2024-13-45'"),
        ("seed=no", "seed: must be a whole number, got the text 'no'"),
        ("seed=" + "9" * 5000, "the value is not YAML: "),
        ("seed=1e999", "seed: "),
        ("name=*x", "the value is not YAML: "),
        ("name=\x00", "the value is not YAML: a character that YAML does not allow"),
        ('name="\\uD800"', "the value is not YAML: the text holds half a surrogate pair"),
        ("seed=" + "[" * 5000, "the value is not YAML: "),
        ('seed="\\U00110000"', "the value is not YAML: "),
    ],
)
def test_values_are_read_as_those_of_the_file(tmp_path: Path, setting: str, said: str) -> None:
    """One line, whatever the value; the same as if it stood in the file."""
    with pytest.raises(ConfigError) as caught:
        load_run(write_run(tmp_path), [setting])
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["2024-01-31", "no"])
def test_a_date_and_no_are_names(tmp_path: Path, name: str) -> None:
    assert load_run(write_run(tmp_path), [f"name={name}"]).run.name == name


def test_files_of_pretraining_text_are_beside_the_yaml(tmp_path: Path) -> None:
    """They are found, saved with absolute paths, and missing or unsuitable ones named by line."""
    (tmp_path / "c.txt").write_text("text")
    text = GOOD + "  ptx:\n    coef: 0.1\n    files: [c.txt]\n"
    loaded = load_run(write_run(tmp_path, text))
    assert loaded.ptx_files == (tmp_path / "c.txt",)
    folder = tmp_path / "out"
    folder.mkdir()
    save_run(loaded.model_copy(update={"folder": folder}))
    assert load_run(folder).ptx_files == (tmp_path / "c.txt",)
    with pytest.raises(StoreError, match=r"run\.yaml:10: ppo\.ptx\.files: no such file: d\.txt"):
        load_run(write_run(tmp_path, text.replace("c.txt", "d.txt")))
    with pytest.raises(ConfigError, match=r"run\.yaml:10: ppo\.ptx\.files"):
        load_run(write_run(tmp_path, text.replace("c.txt", "c.pdf")))
    with pytest.raises(ConfigError, match="coef is 0"):
        load_run(write_run(tmp_path, text.replace("0.1\n    files", "0\n    files")))


@pytest.mark.parametrize("key", ["reward_model", "ppo.critic", "eval.guard"])
def test_a_missing_model_of_a_late_stage_is_named_at_once(tmp_path: Path, key: str) -> None:
    """One below the run's folder may be made by then."""
    file, label = write_run(tmp_path), "#harm" if key == "eval.guard" else ""
    with pytest.raises(ConfigError, match=f"{re.escape(key)}: no/such/folder: no such"):
        load_run(file, [f"{key}=local:no/such/folder{label}"])
    load_run(file, [f"{key}=local:{Path.cwd()}/runs/small/60-policy{label}"])
