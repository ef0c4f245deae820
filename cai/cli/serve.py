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
    from cai.generate.rank import Rank
    from cai.integrations.reward_batching import RewardTable, ScoreTexts
    from cai.records import Prompt

app = typer.Typer()


@app.command(
    epilog="Example: cai serve-reward runs/quickstart --port 8900, "
    "or cai serve-reward --constitution harmless"
)
def serve_reward(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="A run's folder or YAML: serve the reward of its PPO."),
    ] = None,
    constitution: Annotated[
        str | None, typer.Option(help="Without a run: serve the reward of its rubric alone.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 admits other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8900,
) -> None:
    """Answer reward requests over HTTP until stopped.

    The token comes from CAI_REWARD_TOKEN; if that is not set, a new token is made and shown.
    """
    if (run is None) == (constitution is None):
        raise UsageError("serve-reward: give a run, or --constitution for its rubric alone")
    quiet()
    from cai.integrations.reward_server import TOKEN_VARIABLE, RewardServer, is_header_token

    configured = os.environ.get(TOKEN_VARIABLE)
    token = configured or secrets.token_urlsafe(24)
    if not is_header_token(token):
        raise UsageError(
            f"{TOKEN_VARIABLE}: a character that a header does not carry (a line break, a space at "
            "an end, or no ASCII): set it without"
        )
    score, rank = run_rewards(run) if run else (rubric_score(constitution or ""), None)
    end_texts = () if constitution else run_end_texts(run or Path())
    try:
        server = RewardServer((host, port), score, token, end_texts=end_texts)
    except OSError as error:
        raise UsageError(f"serve-reward: {host}:{port}: {error.strerror or error}") from None
    if rank is not None:
        server.serve_ranks(rank)
    if not configured:
        print(f"{TOKEN_VARIABLE}={token}", file=sys.stderr)
    print(f"http://{host}:{server.server_address[1]}", flush=True)
    received: int | None = None
    try:
        received = server.serve_forever()
    finally:
        ended = server.server_close()
    code = 0 if received is None else 128 + received
    if not ended:  # a model is at work: the interpreter's shutdown would abort under it
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


def rubric_score(constitution: str) -> ScoreTexts:
    """A reward that is the rubric of a constitution alone."""
    from cai.constitution import load_with_rubric
    from cai.reward.composite import RewardWeights, Scorers, reward_parts
    from cai.rubric import compile_rubric

    _, rubric = load_with_rubric(constitution)
    scorers = Scorers(rubric=compile_rubric(rubric))
    weights = RewardWeights(pm=0.0)

    def score(prompts: Sequence[Prompt], replies: Sequence[str]) -> RewardTable:
        return reward_parts(prompts, replies, scorers, weights)

    return score


def run_end_texts(run: Path) -> tuple[str, ...]:
    """Texts of the tokens that end or pad replies of the run's model.

    Empty where the model is an endpoint: its tokens are unknown.
    """
    from cai.artifacts import SFT
    from cai.modeling.model_files import local_model_name, resolve_model_path
    from cai.modeling.tokenization import load_renderer
    from cai.pipeline.config import load_run

    resolved = load_run(run)
    finetuned = resolved.folder / SFT
    if finetuned.exists():
        renderer = load_renderer(finetuned)
    elif (weights := local_model_name(resolved.run.model)) is not None:
        renderer = load_renderer(resolve_model_path(weights))
    else:
        return ()
    tokens = sorted({*renderer.stop_ids, renderer.pad_token_id})
    return tuple(str(renderer.tokenizer.decode([token])) for token in tokens)


def run_score(run: Path) -> ScoreTexts:
    """The reward that the run's PPO optimizes."""
    return run_rewards(run)[0]


def run_rewards(run: Path) -> tuple[ScoreTexts, Rank]:
    """The reward that the run's PPO optimizes, and the ranking of replies by its judge."""
    from cai.generate.rank import ranker
    from cai.pipeline.config import load_run
    from cai.pipeline.context import open_run
    from cai.pipeline.reward import load_reward
    from cai.progress import progress_bars

    with progress_bars() as progress:
        ctx = open_run(load_run(run), progress)
        judge = ctx.run.judge or ctx.run.model

        def rank(prompt: Prompt, replies: Sequence[str]) -> list[float | None]:
            # the judge is opened at the first request: it may be a large local model
            return ranker(ctx.constitution, ctx.lm(judge), ctx.run.label, ctx.seed)(prompt, replies)

        return load_reward(ctx), rank
