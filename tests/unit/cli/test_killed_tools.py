"""Every command that writes files: killed at its writes and run again, and two at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import Capture, run_command
from forked_commands import ForkServer, fork_server
from killed_tools import KilledTool
from writing_tools import TOOLS, tree, write_inputs, write_preference_model

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("printed")) as running:
        yield running


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("inputs") / "in"
    write_inputs(folder)
    (folder / "tiny").symlink_to(tiny_model)
    write_preference_model(folder)
    return folder


@pytest.fixture(scope="module", params=list(TOOLS))
def tool(
    request: pytest.FixtureRequest,
    server: ForkServer,
    inputs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> KilledTool:
    return KilledTool(request.param, server, inputs, tmp_path_factory.mktemp(request.param))


def test_killed_and_run_again(tool: KilledTool) -> None:
    """In the middle and at the last file operation; `benchmarks/kill_tools.py` tries all."""
    last = tool.result.writes - 1
    for at in (last // 2, last):
        assert tool.fault_after_kill(at=at) == ""


def test_a_second_process_is_told_in_one_line(tool: KilledTool, capsys: Capture) -> None:
    """While the first is stopped in the middle of its work, which it ends undisturbed."""
    result, _ = tool.run_in("both", at=tool.result.writes // 2, stop=True)
    assert result.code is None
    second = run_command(capsys, *tool.arguments("both"))
    assert second.code == 2
    assert "another process is writing it: wait for it" in second.err
    assert len(second.err.splitlines()) == 1
    assert tool.server.resume().code == 0
    assert tree(tool.folder / "both") == tool.files
