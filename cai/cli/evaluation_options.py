"""The options of the command eval that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai.cli.evaluations import EVALUATIONS
from cai.cli.jsonl import FORMATS

Only = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Without RUN.yaml: {', '.join(EVALUATIONS)}, or the YAML file of your own.",
    ),
]
SuiteFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.yaml",
        help="Without RUN.yaml: a file that lists evaluations, all of them of one model.",
    ),
]
EvaluationFile = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help=f"For refusal, prompts with a kind: {FORMATS} Other evaluations read the files of"
        " their sets: see the documentation.",
    ),
]
ScoresFile = Annotated[
    Path | None,
    typer.Option(
        "--output",
        help="Score rows; replies or answers go beside it, as .items.jsonl. With --suite: a folder"
        " for all.",
    ),
]
RubricOf = Annotated[
    str,
    typer.Option(
        "--constitution", help="Without RUN.yaml: the constitution whose rubric grades replies."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Rows of the data to use, drawn by --seed.")]
PreferenceFolder = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="harm: a run's folder, or that of a preference model."),
]
Guard = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="refusal, harm: a guard model that says how harmful replies are, as local:FOLDER, or "
        "local:FOLDER#LABEL of a classifier.",
    ),
]
Guideline = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="The rule that the guard's chat template takes."),
]
Scorer = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="toxicity: a file of words and /patterns/, a classifier's folder[#LABEL], or "
        "MODULE:FUNCTION.",
    ),
]
Judge = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="truthfulqa-open: the model that maps answers; elo: that compares; your own: that "
        "answers a question.",
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(metavar="SPEC", help="helpfulness: a local model that measures relevance."),
]
Templates = Annotated[
    str | None, typer.Option(metavar="PATH", help="jailbreak: templates, in a file or folder.")
]
Systems = Annotated[
    str | None, typer.Option(metavar="PATH", help="jailbreak: system turns, like --templates.")
]
TrainingPrompts = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Evaluations of replies: a run's folder or a file of prompts; scores are also "
        "split by overlap with these.",
    ),
]
Subjects = Annotated[
    list[str] | None,
    typer.Option(
        "--subject",
        metavar="NAME=SPEC",
        help="elo: a model to compare; the first is the reference; repeatable.",
    ),
]
Turns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FILE",
        help="elo: what comes before a subject's prompts: a system turn (.txt), or turns "
        "(.jsonl of role and content); repeatable.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="elo: the judge's recipe: direct (default), rlaif, cai, cai-cot, relevance or probe."
    ),
]
Verdicts = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="elo: people's verdicts: rows of prompt, first and second (subjects' names), "
        "verdict (first, second or tie).",
    ),
]
Draws = Annotated[int | None, typer.Option(min=1, help="Replies per prompt: 1, and 5 for harm.")]
Temperature = Annotated[float | None, typer.Option(min=0, help="0.7, and 1 for harm and toxicity.")]
MaxReply = Annotated[int | None, typer.Option("--max-reply", min=1, help="Tokens of a reply: 64.")]
