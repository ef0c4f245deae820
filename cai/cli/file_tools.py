"""The options that file tools share, and how they open what they work with.

A file tool is a command that is a stage of a run when RUN.yaml is given, and works on a file of
prompts or pairs when it is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cai.cli.jsonl import STREAM, FieldsTarget, Line, LineStep, append_fields, concurrently
from cai.cli.runs import SpendingLimits, execute_run
from cai.cli.silence import quiet
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.constitution import Constitution
    from cai.lm import LM
    from cai.lm.budget import Budget


@dataclass(frozen=True)
class FileToolOptions:
    """Options of a command as they were given; None where one was not."""

    command: str
    required: Mapping[str, object]
    """Name -> value of the options without which there is no file to work on."""
    connections: int | None
    settings: list[str] | None
    limits: SpendingLimits
    prefix: str | None = None
    """Beginning of the names of the fields that are added to a file's lines."""

    def run_stage(self, file: Path, **optional: object) -> None:
        """Run the stage of the command's name in the run `file`.

        Args:
            file: the run's YAML.
            optional: name -> value of further options for files, which a run sets in its YAML.

        Raises:
            UsageError: options for files are given as well.
        """
        for_files = {
            **self.required,
            **optional,
            "connections": self.connections,
            "prefix": self.prefix,
        }
        given = [f"--{name}" for name, value in for_files.items() if value is not None]
        if given:
            raise UsageError(
                f"{self.command}: {file} and {', '.join(given)}: "
                "give a run's YAML or a file tool's options, not both"
            )
        execute_run(file, (self.command,), self.settings, self.limits)

    def check(self) -> None:
        """Check the options for a file.

        Raises:
            UsageError: a required option is missing, or settings are given, which only a run has.
        """
        missing = [f"--{name}" for name, value in self.required.items() if value is None]
        if missing:
            raise UsageError(
                f"{self.command}: give RUN.yaml, or --{', --'.join(self.required)} "
                f"(missing: {', '.join(missing)})"
            )
        if self.settings:
            raise UsageError(f"{self.command}: --set changes a run's YAML: give one")

    def text(self, name: str) -> str:
        """The value of a required option, after `check`."""
        return str(self.required[name])

    def path(self, name: str) -> Path:
        """The value of a required option, after `check`."""
        return Path(self.text(name))

    def budget(self) -> Budget:
        """The limits of the tool's calls to an endpoint.

        Raises:
            UsageError: cost is limited: prices are known to runs only.
        """
        from cai.lm.budget import Budget

        if self.limits.max_cost is not None:
            raise UsageError(
                f"{self.command}: --max-cost needs prices, which only a run's YAML has: "
                "limit --max-tokens or --max-hours"
            )
        return Budget(max_tokens=self.limits.max_tokens, max_hours=self.limits.max_hours)


@dataclass(frozen=True)
class FileTool:
    """A constitution, a model, and the files to read and to write."""

    command: str
    constitution: Constitution
    lm: LM
    source: Path
    output: Path
    prefix: str = ""

    def run(
        self,
        lines: Iterator[Line],
        step: LineStep,
        fields: Collection[str],
        provenance: Mapping[str, str],
    ) -> None:
        """Write each line of the source, with the fields that `step` adds, to the output.

        Args:
            lines: of the source.
            step: the fields to add to a line.
            fields: their names.
            provenance: what decides them besides constitution, templates and model.
        """
        from cai.cli.output_files import refuse_input_as_output
        from cai.store import digest
        from cai.templates import templates_digest

        refuse_input_as_output(self.output, self.source)
        about_tool = {
            "constitution": digest(self.constitution),
            "model": self.lm.fingerprint,
            "templates": templates_digest(),
        }
        target = FieldsTarget(
            self.output,
            self.command,
            frozenset(fields),
            about_tool | dict(provenance),
            prefix=self.prefix,
        )
        append_fields(
            lines, target, concurrently(step, self.lm), batch_size=self.lm.max_concurrency
        )


def open_file_tool(options: FileToolOptions) -> FileTool:
    """Check the options, then open the constitution and the model that they name.

    Raises:
        UsageError: wrong options.
        ConfigError: the constitution or the model cannot be opened.
    """
    options.check()
    quiet()
    from cai.constitution import load_constitution

    budget = options.budget()
    output = options.path("output")
    return FileTool(
        options.command,
        load_constitution(options.text("constitution")),
        open_logged(options.text("model"), output, options.connections, budget),
        options.path("input"),
        output,
        options.prefix or "",
    )


def open_logged(
    model: str, output: Path, connections: int | None = None, budget: Budget | None = None
) -> LM:
    """Open a model whose calls, if it is an endpoint, are logged beside `output`.

    A logged call is not made, and paid for, a second time.

    Args:
        model: the model's spec.
        output: the file beside which the log lies; no log beside standard output.
        connections: calls in flight at the same time, to an endpoint.
        budget: limits of the calls to an endpoint.
    """
    from cai.lm import open_lm
    from cai.lm.budget import MeteredLM, Prices
    from cai.lm.caching import CachedLM
    from cai.lm.http import HttpConfig, HttpLM
    from cai.lm.request_log import RequestLog

    config = None if connections is None else HttpConfig(connections=connections)
    lm: LM = open_lm(model, config)
    if not isinstance(lm, HttpLM):
        return lm
    if budget is not None:
        lm = MeteredLM(lm, budget, Prices())
    if output == STREAM:
        return lm
    return CachedLM(lm, RequestLog(output.with_suffix(".requests.sqlite")))
