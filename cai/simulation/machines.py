"""Descriptions of machines and batch queues in YAML, each number with its source.

A machine has an `engine`, which computes, or a `queue`, which answers files of requests.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from cai.constitution.yaml_source import parse, read_yaml
from cai.errors import ConfigError
from cai.records import FrozenModel
from cai.shipped import MACHINES

Basis = Literal["published", "measured", "assumed"]
NO_SOURCE = "the file names no source"


class Figure(FrozenModel):
    """A number and where it comes from. A bare number in the file is an assumption."""

    value: float = Field(ge=0, le=1e15)
    basis: Basis
    source: str = Field(min_length=1, max_length=500)

    @model_validator(mode="before")
    @classmethod
    def _bare_number(cls, data: Any) -> Any:
        if isinstance(data, int | float) and not isinstance(data, bool):
            return {"value": data, "basis": "assumed", "source": NO_SOURCE}
        return data


class Positive(Figure):
    """A figure that cannot be zero."""

    value: float = Field(ge=1e-9, le=1e15)


class DecodePoint(FrozenModel):
    """How fast a device generates with `rows` replies at once."""

    rows: int = Field(ge=1, le=65_536)
    tokens_per_second: float = Field(ge=1e-9, le=1e12)
    """Of all these replies together."""
    basis: Basis
    source: str = Field(min_length=1, max_length=500)

    @property
    def step_seconds(self) -> float:
        """One token of each row."""
        return self.rows / self.tokens_per_second


class Engine(FrozenModel):
    """What computes, per device."""

    batching: Literal["continuous", "windows"]
    """`continuous`: a row starts whenever one ends, and prompts are read while others are
    continued (vLLM, SGLang). `windows`: `max_rows` rows start together, and the next ones when
    all have ended (a model in the process of `cai`)."""
    prefill_tokens_per_second: Positive
    """Prompt tokens read by full batches. With `continuous` the most tokens of any kind."""
    decode: tuple[DecodePoint, ...] = Field(min_length=1)
    """By rising `rows`; between two points the time of a step is on a straight line."""
    max_rows: Positive
    """Replies at once."""
    cache_tokens: Positive | None = None
    """Room for keys and values: replies under way, and prefixes. Null: no prefix is kept."""

    @model_validator(mode="after")
    def _points_in_order(self) -> Engine:
        for low, high in itertools.pairwise(self.decode):
            if high.rows <= low.rows:
                raise ValueError(f"decode: {high.rows} rows after {low.rows}: sort by `rows`")
            if high.step_seconds < 0.999 * low.step_seconds:  # rounding aside
                raise ValueError(
                    f"decode: a step of {high.rows} rows takes {high.step_seconds:.3g} s, less "
                    f"than one of {low.rows} ({low.step_seconds:.3g} s): check tokens_per_second"
                )
        if self.max_rows.value < 1:
            raise ValueError("max_rows: at least 1")
        if self.max_rows.value > self.decode[-1].rows:
            raise ValueError(
                f"max_rows {self.max_rows.value:g} is beyond the last point of decode, "
                f"{self.decode[-1].rows} rows: measure there, or lower max_rows"
            )
        return self


class Queue(FrozenModel):
    """A vendor's batch queue: files of requests go in, files of answers come out."""

    requests_per_file: Positive
    median_hours: Positive
    """In which half of the files are answered."""
    slow_hours: Positive
    """In which nine of ten are."""
    most_hours: Positive
    """After which the vendor ends a file."""
    tokens_in_flight: Positive
    """Most prompt tokens in files that wait for answers."""
    prompt_price: Figure
    """Per million tokens, without the discount."""
    completion_price: Figure
    discount: Positive
    """Share of the price that a queue charges."""

    @model_validator(mode="after")
    def _hours_in_order(self) -> Queue:
        if not self.median_hours.value < self.slow_hours.value <= self.most_hours.value:
            raise ValueError("median_hours < slow_hours <= most_hours is not so")
        if self.requests_per_file.value < 1:
            raise ValueError("requests_per_file: at least 1")
        if self.discount.value > 1:
            raise ValueError("discount: a share of the price, at most 1")
        return self


class Machine(FrozenModel):
    """One or more equal devices, or a queue."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=40)
    title: str = Field(min_length=1, max_length=200)
    """What it is, with the model that its numbers are for."""
    devices: int = Field(1, ge=1, le=1_000_000)
    startup_seconds: Figure = Figure(value=0, basis="assumed", source="the file names no start")
    """Until the model is loaded and answers; paid for."""
    price_per_hour: Figure | None = None
    """Of one device. Null: unknown, and so is the cost."""
    requests_per_second: Positive | None = None
    """Most that the clients send to all devices together. Null: no limit."""
    engine: Engine | None = None
    queue: Queue | None = None

    @model_validator(mode="after")
    def _engine_or_queue(self) -> Machine:
        if (self.engine is None) == (self.queue is None):
            raise ValueError("give either the section engine or the section queue")
        return self

    def sources(self) -> Iterator[str]:
        """`KEY VALUE (basis): source` of every number."""
        sections = (("", self), ("engine.", self.engine), ("queue.", self.queue))
        for prefix, section in sections:
            if section is None:
                continue
            for name in type(section).model_fields:
                value = getattr(section, name)
                if isinstance(value, Figure):
                    yield f"{prefix}{name} {value.value:g} ({value.basis}): {value.source}"
                elif name == "decode":
                    for point in value:
                        yield (
                            f"engine.decode {point.tokens_per_second:g} tokens/s at {point.rows} "
                            f"rows ({point.basis}): {point.source}"
                        )


def shipped_machines() -> list[str]:
    """The names of the machines that come with the package."""
    return sorted(path.stem for path in MACHINES.glob("*.yaml"))


def load_machine(name_or_path: str) -> Machine:
    """A machine by file, or by the name of a shipped one.

    Raises:
        ConfigError: no such file or name; or a line per mistake, each with file and line.
    """
    if name_or_path in shipped_machines():
        return parse(read_yaml(MACHINES / f"{name_or_path}.yaml"), Machine)
    path = Path(name_or_path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        names = ", ".join(shipped_machines())
        raise ConfigError(f"no machine {name_or_path!r}: name a YAML file, or one of {names}")
    return parse(read_yaml(path), Machine)
