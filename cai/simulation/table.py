"""The simulated hours and money as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from cai.simulation.forecast import MachineForecast, StageForecast

CAPTION = (
    "simulated, not measured; rows are taken to be like those that were tried, ± is the 95 % "
    "interval of their tokens; training is not in it"
)


def simulation_table(forecasts: Sequence[MachineForecast]) -> Table:
    """A line per stage, and one for all stages with the machine's start."""
    heads = (
        "calls",
        "prompt tokens",
        "cached",
        "generated",
        "rows/hour",
        "hours",
        "cost",
        "±",
        "limited by",
    )
    table = Table("machine", "prompts", "stage", "rows", caption=CAPTION)
    for head in heads:
        table.add_column(head)
    for forecast in forecasts:
        name, prompts = forecast.machine.name, f"{forecast.prompts:,}"
        for stage in forecast.stages:
            table.add_row(name, prompts, stage.stage, *_cells(stage))
        total = (amount(forecast.hours), amount(forecast.cost), "", "")
        table.add_row(name, prompts, "all", "", "", "", "", "", "", *total)
        table.add_section()
    return table


def _cells(stage: StageForecast) -> tuple[str, ...]:
    return (
        f"{stage.rows:,}",
        short(stage.calls),
        short(stage.prompt_tokens),
        "–" if stage.cached is None else f"{stage.cached:.0%}",
        short(stage.generated_tokens),
        short(stage.rows_per_hour),
        amount(stage.hours),
        amount(stage.cost),
        "?" if stage.spread is None else f"{stage.spread:.0%}",
        stage.limit,
    )


def short(value: float) -> str:
    """Three digits and a unit: 12,345,678 is 12.3M."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def amount(value: float | None) -> str:
    """Three digits at least; – where it is unknown."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
