"""The options that file tools share, and how they open what they work with.

A file tool is a command that is a stage of a run when RUN.yaml is given, and works on a file of
prompts or pairs when it is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cai.cli.added_fields import FieldsTarget, LineStep, append_fields, concurrently
from cai.cli.endpoint_options import EndpointOptions, open_logged
from cai.cli.jsonl import Line
from cai.cli.runs import execute_run
from cai.cli.silence import quiet
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.constitution import Constitution
    from cai.lm import LM


@dataclass(frozen=True)
class FileToolOptions:
    """Options of a command as they were given; None where one was not."""

    required: Mapping[str, object]
    """Name -> value of the options without which there is no file to work on."""
    endpoint: EndpointOptions
    """In a run, the settings are those of any of its sections."""
    prefix: str | None = None
    """Beginning of the names of the fields that are added to a file's lines."""

    @property
    def command(self) -> str:
        return self.endpoint.command

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
            "connections": self.endpoint.connections,
            "prefix": self.prefix,
        }
        names = [name for name, value in for_files.items() if value is not None]
        given = [f"--{name}".replace("_", "-") for name in names]
        if given:
            raise UsageError(
                f"{self.command}: {file} and {', '.join(given)}: "
                "give a run's YAML or a file tool's options, not both"
            )
        execute_run(file, (self.command,), self.endpoint.settings, self.endpoint.limits)

    def check(self) -> None:
        """Check the options for a file.

        Raises:
            UsageError: a required option is missing.
        """
        missing = [f"--{name}" for name, value in self.required.items() if value is None]
        if missing:
            raise UsageError(
                f"{self.command}: give RUN.yaml, or --{', --'.join(self.required)} "
                f"(missing: {', '.join(missing)})"
            )

    def text(self, name: str) -> str:
        """The value of a required option, after `check`."""
        return str(self.required[name])

    def path(self, name: str) -> Path:
        """The value of a required option, after `check`."""
        return Path(self.text(name))

    def answer_settings(self) -> dict[str, str]:
        """The endpoint's settings that decide what a row holds."""
        return self.endpoint.answer_settings(self.text("model"))


@dataclass(frozen=True)
class FileTool:
    """A constitution, a model, and the files to read and to write."""

    options: FileToolOptions
    constitution: Constitution
    lm: LM
    source: Path
    output: Path

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
            **self.options.answer_settings(),
        }
        target = FieldsTarget(
            self.output,
            self.options.command,
            frozenset(fields),
            about_tool | dict(provenance),
            prefix=self.options.prefix or "",
        )
        append_fields(
            lines, target, concurrently(step, self.lm), batch_size=self.lm.max_concurrency
        )


@contextlib.contextmanager
def open_file_tool(options: FileToolOptions) -> Iterator[FileTool]:
    """Check the options, then open the constitution and the model that they name.

    Raises:
        UsageError: wrong options.
        ConfigError: the constitution or the model cannot be opened.
    """
    options.check()
    quiet()
    from cai.constitution import load_constitution

    output = options.path("output")
    constitution = load_constitution(options.text("constitution"))
    with open_logged(options.text("model"), output, options.endpoint) as lm:
        yield FileTool(options, constitution, lm, options.path("input"), output)
