"""One tool that writes files, killed and run again."""

from __future__ import annotations

from pathlib import Path

from forked_commands import ForkServer, Result
from writing_tools import TOOLS, Arguments, output_name, tree

COMPLETE = ("exists already", "there is something already")
"""What a command says whose new folder was complete before the kill."""


class KilledTool:
    """A tool with a folder of outputs for each of its runs."""

    def __init__(self, name: str, server: ForkServer, inputs: Path, folder: Path) -> None:
        self.name = name
        self.server = server
        self.inputs = inputs
        self.folder = folder
        self.killed = 0
        """Runs that ended by a kill; others had ended before it."""
        self.result, self.files = self.run_in("undisturbed")
        assert self.result.code == 0, self.result.err
        assert self.files

    def arguments(self, folder: str) -> Arguments:
        (self.folder / folder).mkdir(exist_ok=True)
        return TOOLS[self.name](self.inputs, self.folder / folder / output_name(self.name))

    def run_in(
        self, folder: str, at: int | None = None, stop: bool = False, after: float | None = None
    ) -> tuple[Result, dict[str, bytes]]:
        """The outcome of the command, and its files; for the options see `ForkServer.run`."""
        arguments = self.arguments(folder)
        watched = self.folder / folder
        result = self.server.run(watched, *arguments, at=at, stop=stop, after=after)
        return result, tree(watched)

    def fault_after_kill(self, *, at: int | None = None, after: float | None = None) -> str:
        """Kill the tool and run it again.

        Returns:
            What is wrong; empty where every file is the same to the byte as without the kill.
        """
        moment = f"killed at {at if after is None else f'{after:.4f} s'}"
        result, _ = self.run_in(moment, at=at, after=after)
        self.killed += result.code == -9
        if result.code != -9 and after is None:
            return f"{moment}: was not killed: {result}"
        again, files = self.run_in(moment)
        if again.code != 0 and not any(text in again.err for text in COMPLETE):
            return f"{moment}: does not run again: {again}"
        differing = sorted(
            name
            for name in files.keys() | self.files.keys()
            if files.get(name) != self.files.get(name)
        )
        return f"{moment}: {', '.join(differing)} differ" if differing else ""
