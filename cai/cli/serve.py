"""The command that serves a run's reward to other trainers."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.silence import quiet
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.integrations.reward_server import ScoreTexts, Table
    from cai.records import Prompt

app = typer.Typer()


@app.command(epilog="Example: cai serve-reward runs/quickstart --port 8900, or cai serve-reward --constitution harmless")
def serve_reward(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run's folder or YAML: its whole reward, by its own mix.")
    ] = None,
    constitution: Annotated[str | None, typer.Option(help="Without a run: its rubric alone.")] = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8900,
) -> None:
    """Answer reward requests over HTTP until stopped. The token comes from CAI_REWARD_TOKEN; without one, a new one is shown."""
    if (run is None) == (constitution is None):
        raise UsageError("serve-reward: give a run, or --constitution for its rubric alone")
    quiet()
    from cai.integrations.reward_server import TOKEN, RewardServer

    score = rubric_score(constitution) if constitution else run_score(run or Path())
    ends = () if constitution else run_ends(run or Path())
    given = os.environ.get(TOKEN)
    token = given or secrets.token_urlsafe(24)
    try:
        server = RewardServer((host, port), score, token, ends=ends)
    except OSError as error:
        raise UsageError(f"serve-reward: {host}:{port}: {error.strerror or error}") from None
    if not given:
        print(f"{TOKEN}={token}", file=sys.stderr)
    print(f"http://{host}:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()


def rubric_score(constitution: str) -> ScoreTexts:
    """The rubric of a constitution as the whole reward."""
    from cai.cli.grades import with_rubric
    from cai.reward.composite import RewardMix, combine
    from cai.rubric import compile_rubric

    compiled, mix = compile_rubric(with_rubric(constitution)[1]), RewardMix(pm=0.0)

    def score(prompts: Sequence[Prompt], replies: Sequence[str]) -> Table:
        return combine(prompts, replies, None, compiled, mix)

    return score


def run_ends(run: Path) -> tuple[str, ...]:
    """Texts of the tokens that end or fill up replies of the run's model; none where only an endpoint knows them."""
    from cai.artifacts import SFT
    from cai.modeling.model_files import local_weights, locate
    from cai.modeling.tokenization import load_renderer
    from cai.pipeline.config import load_run

    loaded = load_run(run)
    model, tuned = loaded.run.model, loaded.folder / SFT
    if tuned.exists():
        renderer = load_renderer(tuned)
    elif (weights := local_weights(model)) is not None:
        renderer = load_renderer(locate(weights))
    else:
        return ()
    return tuple(str(renderer.tokenizer.decode([token])) for token in sorted({renderer.stop_id, renderer.pad_id}))


def run_score(run: Path) -> ScoreTexts:
    """The reward that a run's PPO learns from."""
    from cai.pipeline.config import load_run
    from cai.pipeline.context import open_run
    from cai.pipeline.reward import load_reward
    from cai.progress import progress_bars

    with progress_bars() as progress:
        return load_reward(open_run(load_run(run), progress))
