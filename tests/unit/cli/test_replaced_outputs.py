"""Outputs that are written in one go, and new folders: nobody else's file is touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runner import Capture, CommandResult, run_command
from writing_tools import (
    FOLDERS,
    GROWING,
    REPLACED,
    TOOLS,
    command_of,
    output_name,
    tree,
    write_inputs,
)

from cai.files import manifest_path
from cai.locks import locked_name

FILES = GROWING | REPLACED
USERS_FILES = {
    "text": b"notes without a last newline",
    "image": b"\x89PNG\r\n\x1a\n\0\xff",
}
Run = Callable[..., CommandResult]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs") / "in"
    write_inputs(folder)
    (folder / "tiny").mkdir()  # refusals come before a model is opened
    (folder / "tiny" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def run(capsys: Capture, inputs: Path, tmp_path: Path) -> Run:
    """The tool of a name, with its output in `tmp_path`, or another output."""

    def run_tool(name: str, output: Path | None = None) -> CommandResult:
        arguments = TOOLS[name](inputs, output or tmp_path / output_name(name))
        return run_command(capsys, *arguments)

    return run_tool


@pytest.mark.parametrize("content", USERS_FILES.values(), ids=USERS_FILES)
@pytest.mark.parametrize("name", REPLACED)
def test_a_users_file_stays(name: str, content: bytes, run: Run, tmp_path: Path) -> None:
    """Nothing else is left either: no manifest, no lock, no part."""
    (tmp_path / output_name(name)).write_bytes(content)
    error = run(name).usage_error
    assert error == (
        f"--output {tmp_path / output_name(name)}: exists and was not written by cai"
        f" {command_of(name)}: give another --output, or move it away"
    )
    assert tree(tmp_path) == {output_name(name): content}


@pytest.mark.parametrize("name", REPLACED)
def test_an_edited_file_stays(name: str, run: Run, tmp_path: Path) -> None:
    """As it was left, it is replaced; an empty file is taken."""
    output = tmp_path / output_name(name)
    output.touch()
    assert run(name).code == 0
    files = tree(tmp_path)
    assert run(name).code == 0
    assert tree(tmp_path) == files
    output.write_bytes(files[output.name] + b"# mine\n")
    assert f"was changed since cai {command_of(name)} wrote it" in run(name).usage_error
    assert output.read_bytes() == files[output.name] + b"# mine\n"


@pytest.mark.parametrize("name", REPLACED)
def test_the_output_of_another_command_stays(name: str, run: Run, tmp_path: Path) -> None:
    output = tmp_path / output_name(name)
    other = "near-miss" if name != "near-miss" else "clean"
    assert run(other, output).code == 0
    files = tree(tmp_path)
    assert f"was not written by cai {command_of(name)}" in run(name).usage_error
    assert tree(tmp_path) == files


@pytest.mark.parametrize("name", REPLACED)
def test_an_output_is_a_file_and_no_input(
    name: str, run: Run, tmp_path: Path, inputs: Path
) -> None:
    before = tree(inputs)
    assert "this is a folder" in run(name, tmp_path).usage_error
    if name != "clean":
        for stream in (Path("-"), Path("/dev/null")):
            assert "must be a file" in run(name, stream).usage_error
        assert not Path("-").exists()
    source = next(Path(part) for part in TOOLS[name](inputs, tmp_path) if Path(str(part)).is_file())
    (tmp_path / "link.jsonl").symlink_to(source)
    for output in (source, tmp_path / "link.jsonl"):
        assert "this is the input itself" in run(name, output).usage_error
    assert tree(inputs) == before


@pytest.mark.parametrize("name", FILES)
def test_a_foreign_manifest_stays(name: str, run: Run, tmp_path: Path) -> None:
    """Many programs have a file of such a name."""
    manifest = manifest_path(tmp_path / output_name(name))
    manifest.write_text('{"icons": []}')
    result = run(name)
    assert "not a manifest of this version of cai" in result.usage_error
    assert manifest.read_text() == '{"icons": []}'


@pytest.mark.parametrize("name", REPLACED)
def test_planted_links_are_not_followed(name: str, run: Run, tmp_path: Path) -> None:
    """Under the names that are used on the way, and under the output's name."""
    victim, folder = tmp_path / "victim", tmp_path / "work"
    folder.mkdir()
    victim.write_text("mine")
    output = folder / output_name(name)
    lock = folder / f".{output.name}.cai-lock"
    lock.symlink_to(victim)
    assert run(name, output).usage_error.startswith(f"{output}: cannot write")
    lock.unlink()
    (folder / f".{output.name}.cai-partial").symlink_to(victim)
    (folder / f"{output.name}.partial").symlink_to(victim)
    output.symlink_to(tmp_path / "missing")
    assert run(name, output).code == 0
    assert not output.is_symlink()
    assert victim.read_text() == "mine"
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("name", sorted(set(FOLDERS) - {"init"}))
def test_a_users_partial_folder_stays(name: str, run: Run, tmp_path: Path) -> None:
    """It has the name under which the new folder is filled; a link of that name stays too."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis").write_text("mine")
    (tmp_path / "out.partial").symlink_to(elsewhere)
    assert "taken by something that cai did not make" in run(name).usage_error
    (tmp_path / "out.partial").unlink()
    elsewhere.rename(tmp_path / "out.partial")
    assert "taken by something that cai did not make" in run(name).usage_error
    assert tree(tmp_path) == {"out.partial/thesis": b"mine"}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_folder_is_new(name: str, kind: str, run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out"
    if kind == "file":
        output.write_text("mine")
    elif kind == "folder":
        output.mkdir()
        (output / "thesis").write_text("mine")
    else:
        output.symlink_to(tmp_path / "nowhere")
    before = tree(tmp_path)
    error = run(name).usage_error
    assert error.startswith(f"{output}: ")
    assert "already" in error
    assert tree(tmp_path) == before
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", sorted(set(REPLACED | FOLDERS) - {"init"}))
def test_a_held_name_is_refused_before_the_work(name: str, run: Run, tmp_path: Path) -> None:
    output = tmp_path / output_name(name)
    with locked_name(output):
        assert run(name).usage_error == f"{output}: another process is writing it: wait for it"
        assert not output.exists()


def test_clean_writes_to_a_pipe(capsys: Capture, inputs: Path) -> None:
    result = run_command(capsys, "clean", inputs / "prompts.jsonl", "--output", "/dev/null")
    assert result.code == 0


def test_two_formats_of_one_name_have_a_manifest_each(
    capsys: Capture, inputs: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        for suffix in ("jsonl", "parquet"):
            source, output = inputs / "prompts.jsonl", tmp_path / f"x.{suffix}"
            assert run_command(capsys, "clean", source, "--output", output).code == 0
    assert json.loads((tmp_path / "x.manifest.json").read_text())["finished"] is True
    assert (tmp_path / "x.parquet.manifest.json").exists()
