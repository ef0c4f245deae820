"""Exports for the Hub: folders, cards, the dry run, the conditions of an upload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from cli_runner import Capture, run_command
from huggingface_hub import DatasetCard, ModelCard

from cai import store
from cai.artifacts import POLICY, SFT
from cai.errors import StoreError, UsageError
from cai.integrations.hub import check_upload, export_for_hub, hub_folders
from cai.records import Pair, Preference, Prompt, Revision, Row, chat_of

HARM = Prompt(chat=chat_of(("user", "Do harm.")), kind="disallowed", category="x|<b>", origin="me")
PAIR = Pair(source=HARM.id, chat=HARM.chat, first="a", second="b")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    rows: list[tuple[str, Row]] = [
        ("00-prompts", HARM),
        ("10-revisions", Revision(source=HARM.id, chat=HARM.chat, initial="Yes.", final="No.")),
        ("30-pairs", PAIR),
        ("40-preferences", Preference(source=PAIR.id, p_first=0.75)),
    ]
    for name, row in rows:
        path = folder / f"{name}.jsonl"
        store.begin_artifact(path, name, {"constitution": "toy 1", "rubric": "abc"})
        store.append_rows(path, [row])
        store.finish_artifact(path)
    for name in (SFT, POLICY):
        (folder / name / "checkpoints").mkdir(parents=True)
        (folder / name / "checkpoints" / "state").write_text("x")
        (folder / name / "model.safetensors").write_text("weights of " + name)
        store.begin_artifact(folder / name, name, {})
        store.finish_artifact(folder / name)
    return folder


def test_each_folder_is_a_repository_with_a_valid_card(run: Path, tmp_path: Path) -> None:
    folders = export_for_hub(run, tmp_path / "out", license="apache-2.0", language="en")
    assert [(folder.path.name, folder.kind) for folder in folders] == [
        ("policy", "model"),
        ("sft", "model"),
        ("data", "dataset"),
    ]
    names = [[name for name, _ in folder.files] for folder in folders]
    assert names[0] == names[1] == ["README.md", "model.safetensors"], "without checkpoints"
    assert (folders[0].path / "model.safetensors").read_text() == "weights of 60-policy"
    assert [folder.repository("me/x") for folder in folders] == ["me/x", "me/x-sft", "me/x-data"]
    for folder in folders:
        kind = DatasetCard if folder.kind == "dataset" else ModelCard
        card = kind((folder.path / "README.md").read_text())
        assert (card.data.license, card.data.language) == ("apache-2.0", "en")
    with pytest.raises(StoreError, match="exists already"):
        export_for_hub(run, tmp_path / "out")


def test_the_data_card_tells_about_the_rows(run: Path, tmp_path: Path) -> None:
    export_for_hub(run, tmp_path / "out")
    card = (tmp_path / "out" / "data" / "README.md").read_text()
    for line in (
        "| disallowed | 1 |",
        "| x  b  | 1 |",
        "| me | 1 |",
        "| the first reply | 1 |",
        "| pairs without a label | 0 % n=1 |",
        "`toy 1`, digest `",
        "a model's opinions",
    ):
        assert line in card


def test_a_run_may_have_a_part_of_it(run: Path, tmp_path: Path) -> None:
    store.begin_artifact(tmp_path / "x", "x", {})
    store.manifest_path(run / POLICY).unlink()
    assert [f.path.name for f in export_for_hub(run, tmp_path / "a")] == ["sft", "data"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="nothing to export"):
        export_for_hub(tmp_path / "empty", tmp_path / "b")
    with pytest.raises(StoreError, match="no export for the Hub"):
        hub_folders(tmp_path / "empty")


def test_without_upload_it_lists_what_would_be_sent(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    result = run_command(capsys, "export", run, "--to", "hub", "--output", out)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == f"{out}/policy -> model OWNER/NAME"
    assert "  model.safetensors: 20 bytes" in lines
    assert f"{out}/data -> dataset OWNER/NAME-data" in lines
    assert lines[-1].startswith("Nothing was sent")


def test_an_upload_needs_a_name_and_a_token(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are looked at before anything is written."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    arguments = ("export", run, "--to", "hub", "--output", tmp_path / "out")
    assert "set HF_TOKEN" in run_command(capsys, *arguments, "--upload", "me/x").usage_error
    for name in ("x", "a/b/c", "me/--x", "me/" + "x" * 95):
        with pytest.raises(UsageError, match="not a repository's name"):
            check_upload(name)
    refused = run_command(capsys, "export", run, "--output", tmp_path / "o", "--upload", "me/x")
    assert refused.usage_error == "--upload: only with --to hub"
    assert not (tmp_path / "out").exists()


def test_an_upload_sends_what_lies_there(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To private repositories, a card that was edited after the dry run as it is now."""
    sent: list[Any] = []

    class Api:
        def __init__(self, token: str) -> None:
            assert token == "secret"

        def create_repo(self, name: str, *, repo_type: str, private: bool, exist_ok: bool) -> str:
            sent.append((name, repo_type, private))
            return f"https://hub/{name}"

        def upload_folder(self, *, folder_path: Path, **others: Any) -> None:
            sent.append((folder_path / "README.md").read_text())

    arguments = ("export", run, "--to", "hub", "--output", tmp_path / "out")
    run_command(capsys, *arguments)
    readme = tmp_path / "out" / "policy" / "README.md"
    readme.write_text(readme.read_text() + "edited")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    result = run_command(capsys, *arguments, "--upload", "me/x")
    assert sent[::2] == [
        ("me/x", "model", True),
        ("me/x-sft", "model", True),
        ("me/x-data", "dataset", True),
    ]
    assert sent[1].endswith("edited")
    assert result.out.splitlines()[-1] == "sent to https://hub/me/x-data"
    readme.write_text("---\nlicense: [\n---\n")
    assert "no valid card" in run_command(capsys, *arguments, "--upload", "me/x").usage_error


def test_a_refusal_of_the_hub_is_one_line_without_the_token(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Api:
        def __init__(self, token: str) -> None: ...

        def create_repo(self, *arguments: Any, **others: Any) -> str:
            raise OSError("no route\nfor secret")

    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    arguments = ("export", run, "--to", "hub", "--output", tmp_path / "out", "--upload", "me/x")
    result = run_command(capsys, *arguments)
    assert result.code == 1
    assert result.err == "cai: --upload me/x: OSError: no route for [token]\n"
