"""Options on endpoints that every command on a file has: settings, calls at once, limits.

The settings are those that a run's YAML has as `http` and `prices`, with the same checks and the
same messages.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.jsonl import STREAM
from cai.cli.runs import MaxCost, MaxHours, MaxTokens, SpendingLimits
from cai.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from cai.lm import LM
    from cai.lm.budget import Budget, Prices
    from cai.lm.http import HttpConfig

SECTIONS = ("http", "prices")
Connections = Annotated[
    int | None,
    typer.Option(min=1, help="Calls in flight at once, to an endpoint: http.connections."),
]
EndpointSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="A setting of `http` or `prices`, as in a run's YAML, such as http.timeout=30; "
        "repeatable.",
    ),
]


@dataclass(frozen=True)
class EndpointOptions:
    """Options of a command as they were given; None where one was not."""

    command: str
    connections: int | None
    settings: list[str] | None
    limits: SpendingLimits

    def given(self) -> list[str]:
        """Names of the options that were given."""
        limits = {name.replace("_", "-"): limit for name, limit in asdict(self.limits).items()}
        values = {"connections": self.connections, "set": self.settings or None} | limits
        return [f"--{name}" for name, value in values.items() if value is not None]

    def parse_settings(self) -> tuple[HttpConfig, Prices]:
        """The settings of endpoints.

        Raises:
            UsageError: a setting is of another section, or given twice.
            ConfigError: a setting is wrong, in the words that a run has for it.
        """
        from cai.constitution.overrides import key_text
        from cai.lm.budget import Prices
        from cai.lm.http import HttpConfig

        settings = list(self.settings or ())
        if self.connections is not None:
            if any(setting.partition("=")[0] == "http.connections" for setting in settings):
                raise UsageError(
                    f"{self.command}: --connections and --set http.connections: give one of them"
                )
            settings.append(f"http.connections={self.connections}")
        if not settings:
            return HttpConfig(), Prices()
        for setting in settings:
            if setting.partition("=")[0].partition(".")[0] not in SECTIONS:
                raise UsageError(
                    f"{self.command}: --set {key_text(setting)}: "
                    "without a run's YAML only the sections http and prices can be set"
                )
        return _parse(self.command, settings)

    def answer_settings(self, model: str) -> dict[str, str]:
        """Settings that decide what a row holds, if `model` is an endpoint: its provenance."""
        from cai.lm.engines import is_endpoint

        return self.parse_settings()[0].answer_settings() if is_endpoint(model) else {}

    def budget(self, prices: Prices) -> Budget:
        """The limits of the command's calls to an endpoint.

        Raises:
            UsageError: cost is limited, and nothing has a price.
        """
        from cai.lm.budget import Budget

        if self.limits.max_cost is not None and not (prices.prompt or prices.completion):
            raise UsageError(
                f"{self.command}: --max-cost needs prices: give --set prices.prompt=X and "
                "--set prices.completion=Y, or limit --max-tokens or --max-hours"
            )
        return Budget(**asdict(self.limits))


Command = Callable[..., None]


def with_endpoint_options(
    name: str, settings: Any = EndpointSettings
) -> Callable[[Command], Command]:
    """Give the command `name` the options on endpoints, in place of its parameter `endpoint`.

    Typer reads a command's options from its signature, so the signature is changed.

    Args:
        settings: the type of `--set`, where that takes other sections too.
    """
    types = {"connections": Connections, "settings": settings}
    types |= {"max_cost": MaxCost, "max_tokens": MaxTokens, "max_hours": MaxHours}
    options = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=type)
        for option, type in types.items()
    ]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            connections, given, *limits = (arguments.pop(option.name) for option in options)
            endpoint = EndpointOptions(name, connections, given, SpendingLimits(*limits))
            command(endpoint=endpoint, **arguments)

        signature = inspect.signature(command, eval_str=True)
        others = [p for p in signature.parameters.values() if p.name != "endpoint"]
        run.__signature__ = signature.replace(parameters=others + options)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in others + options}
        return run

    return decorate


def _parse(command: str, settings: list[str]) -> tuple[HttpConfig, Prices]:
    from pydantic import ValidationError

    from cai.constitution.overrides import override
    from cai.constitution.validation_errors import dotted, mistakes
    from cai.constitution.yaml_source import Source
    from cai.lm.budget import Prices
    from cai.lm.http import HttpConfig
    from cai.records import FrozenModel

    class Sections(FrozenModel):
        http: HttpConfig = HttpConfig()
        prices: Prices = Prices()

    source = override(Source(Path(command), {}, {}), settings)
    try:
        parsed = Sections.model_validate(source.data)
    except ValidationError as error:
        lines = [
            f"{command}: --set {dotted(key)}: {message}"
            for key, message in mistakes(error, source.lines, Sections)
        ]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None
    return parsed.http, parsed.prices


@contextlib.contextmanager
def open_logged(
    model: str, output: Path, options: EndpointOptions, shared: Budget | None = None
) -> Iterator[LM]:
    """A model whose calls, if it is an endpoint, are limited, and logged beside `output`.

    A logged call is not made, and paid for, a second time. At the end, what the calls took goes to
    standard error.

    Args:
        model: the model's spec.
        output: the file beside which the log lies; no log beside standard output.
        shared: limits that hold for the calls of several models together; what they took is then
            left to the caller to say. None: limits of its own, from the options.

    Raises:
        UsageError, ConfigError: the model or a setting is wrong.
        StoreError: the log is damaged, or another program's.
    """
    from cai.lm import open_lm
    from cai.lm.budget import MeteredLM
    from cai.lm.caching import CachedLM
    from cai.lm.http import HttpLM
    from cai.lm.request_log import RequestLog
    from cai.modeling.model_spec import is_reward_spec
    from cai.reward.score_labels import open_reward_judge

    http, prices = options.parse_settings()
    budget = options.budget(prices) if shared is None else shared
    lm: LM = open_reward_judge(model) if is_reward_spec(model) else open_lm(model, http)
    if not isinstance(lm, HttpLM):
        yield lm
        return
    log = None if output == STREAM else RequestLog(output.with_suffix(".requests.sqlite"))
    metered = MeteredLM(lm, budget, prices)
    try:
        yield metered if log is None else CachedLM(metered, log)
    finally:
        if log is not None:
            log.close()
        if budget.calls and shared is None:
            print(f"calls   {budget.summary()}", file=sys.stderr)
