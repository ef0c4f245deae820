"""`cai init`: what it writes, that it can be run as it is, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai.constitution import lint, load_constitution
from cai.errors import UsageError
from cai.pipeline.config import load_run
from cai.pipeline.project import create_project
from cai.rubric import check_rubric
from cai.shipped import PROMPTS


def test_a_project_can_be_run_as_it_is(tmp_path: Path) -> None:
    files = create_project(tmp_path / "new")
    assert all(file.is_file() for file in files)
    resolved = load_run(tmp_path / "new" / "run.yaml")
    assert (resolved.run.name, resolved.folder) == ("new", Path("runs/new"))
    assert resolved.constitution == tmp_path / "new" / "constitution.yaml"
    assert [path.name for path in resolved.prompts] == [
        "disallowed.jsonl",
        "sensitive.jsonl",
        "benign.jsonl",
    ]
    assert (tmp_path / "new/prompts/benign.jsonl").read_bytes() == (
        PROMPTS / "benign.jsonl"
    ).read_bytes()


def test_its_constitution_is_clean(tmp_path: Path) -> None:
    """It extends the shipped one by name, and adds one principle."""
    create_project(tmp_path)
    constitution = load_constitution(tmp_path / "constitution.yaml")
    assert "short-answers" in {principle.id for principle in constitution.principles}
    assert len(constitution.principles) == 21
    assert list(lint(constitution)) == []
    assert constitution.rubric is not None
    assert check_rubric(constitution.rubric) == []


def test_it_has_the_settings_of_the_quickstart(tmp_path: Path) -> None:
    """But for its name and its own constitution."""
    create_project(tmp_path)
    project, quickstart = load_run(tmp_path / "run.yaml").run, load_run(Path("quickstart")).run
    changed = {"name", "constitution"}
    assert project.model_dump(exclude=changed) == quickstart.model_dump(exclude=changed)


@pytest.mark.parametrize(
    ("folder", "name"), [("my project", "my-project"), ("größe", "gr-e"), ("...", "my-project")]
)
def test_a_run_is_named_after_its_folder(tmp_path: Path, folder: str, name: str) -> None:
    create_project(tmp_path / "x" / folder)
    assert load_run(tmp_path / "x" / folder / "run.yaml").run.name == name


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="there is something already"):
        create_project(tmp_path)
    with pytest.raises(UsageError, match="there is something already"):
        create_project(tmp_path / "mine.txt")
    with pytest.raises(UsageError, match="cannot be written"):
        create_project(tmp_path / "mine.txt" / "new")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
