"""The command that fits a scaling law to small runs and predicts a larger one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import StoreError, UsageError

if TYPE_CHECKING:
    from cai.statistics.scaling_laws import Fit, Law, Prediction

app = typer.Typer()


@app.command(epilog="Example: cai scaling runs.csv --x compute --y loss --predict 1e21")
def scaling(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Runs, a row each: CSV, JSONL or Parquet.")
    ],
    x: Annotated[str, typer.Option("--x", help="Column with the compute, or another size.")],
    y: Annotated[str, typer.Option("--y", help="Column with the loss, or the pass rate.")],
    at: Annotated[
        list[float] | None,
        typer.Option("--predict", metavar="X", help="Predict a run there; repeatable."),
    ] = None,
    pass_rate: Annotated[
        bool, typer.Option("--pass-rate", help="The values are pass rates: fit their -log.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", help="The curve, as an SVG picture.")
    ] = None,
    seed: int = 0,
) -> None:
    """Fit L = a x^b + c to the losses of small runs, or -log p = a x^-k to their pass rates.

    A prediction has a 95 % interval for a single run there.
    """
    quiet()
    from cai.cli.output_files import replaced_output, write_output
    from cai.report.curves import scaling_plot
    from cai.statistics.scaling_laws import fit, predict

    law: Law = "pass_rate" if pass_rate else "loss"
    for value in at or ():
        if not value > 0 or value == float("inf"):
            raise UsageError(f"scaling: --predict {value:g}: give a number above 0")
    with replaced_output(output, "scaling", file) if output else nullcontext():
        points = _points(file, x, y)
        try:
            xs, ys = [size for size, _ in points], [value for _, value in points]
            fitted = fit(xs, ys, law)
            predictions = predict(xs, ys, at, law, seed=seed) if at else []
        except UsageError as error:
            raise UsageError(f"{file}: {str(error).removeprefix('scaling: ')}") from None
        if output:
            write_output(output, "scaling", scaling_plot(points, fitted, predictions, (x, y)))
    _print(fitted, predictions, (x, y))


def _points(file: Path, x: str, y: str) -> list[tuple[float, float]]:
    """The two columns, without rows where y is empty or null.

    Raises:
        StoreError: no row has a column, or one has another value than a number, as file:row.
    """
    from cai.data.readers import located_rows
    from cai.data.tables import Cells

    columns = frozenset((x, y))
    points: list[tuple[float, float]] = []
    names: dict[str, None] = {}
    for location, row in located_rows(file, Cells(known=columns, parsed=columns)):
        names.update(dict.fromkeys(row))
        if row.get(y) is not None:
            points.append((_number(row, x, location), _number(row, y, location)))
    if names and y not in names:
        raise StoreError(f"{file}: no column {y}; the columns are {', '.join(names)}")
    return points


def _number(row: dict[str, Any], column: str, location: str) -> float:
    value = row.get(column)
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        names = ", ".join(row)
        raise StoreError(
            f"{location}: {column} must be a number; it is {value!r} (columns: {names})"
        ) from None


def _print(fitted: Fit, predictions: list[Prediction], names: tuple[str, str]) -> None:
    from rich.table import Table

    x, y = names
    power = f"{fitted.coefficient:.4g} · {x}^({fitted.exponent:.4g})"
    if fitted.law == "loss":
        print(f"{y} = {power} + {fitted.floor:.4g}")
    else:
        print(f"-log {y} = {power}")
    if predictions:
        table = Table(x, y, "95 % interval")
        for row in predictions:
            table.add_row(f"{row.x:g}", f"{row.value:.4g}", f"{row.low:.4g} … {row.high:.4g}")
        print_table(table)
