"""The two text models of the shipped constitution `refusal_style_fitted`, fitted.

    CAI_EVAL_DATA=/path/to/data python benchmarks/fit_refusals.py constitutions

`refusal_style_complies.json` says whether a reply does what was asked, `refusal_style_partial.json`
whether a refusal is partial. They are fitted on replies with human labels that may be used freely
(see refusal_sets.py), and on replies of `written_replies.py`. Settings and thresholds are chosen by
leaving out XSTest's models in turn, as refusal_protocol.py tests it. A GPTFuzz reply and a written
one weigh half as much in the first model. N-grams in fewer than ten replies are left out: no rare
text of the sets is in the models.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import refusal_sets
from refusal_protocol import FIT, labelled

from cai.constitution.schema import TrainedOn
from cai.rubric.held_out_groups import choose
from cai.rubric.text_classifier import Labelled, fit_text


def main(folder: str) -> None:
    data = refusal_sets.data_folder("fit_refusals")
    xstest = refusal_sets.xstest(data)
    gptfuzz = refusal_sets.some_of_each_question(refusal_sets.gptfuzz(data))
    sources = [
        ("XSTest completions", "CC BY 4.0", xstest),
        ("GPTFuzz train", "MIT", gptfuzz),
        ("replies written by rule", "Apache-2.0", refusal_sets.written()),
    ]
    models = frozenset(reply.source for reply in xstest)
    for name, of_refusals in (("complies", False), ("partial", True)):
        rows: list[Labelled] = []
        trained_on = []
        for title, licence, replies in sources:
            used = labelled(replies, models, of_refusals=of_refusals)
            rows += used
            if used:
                trained_on.append(TrainedOn(name=title, rows=len(used), licence=licence))
        write(Path(folder) / f"refusal_style_{name}.json", rows, trained_on)


def write(path: Path, rows: Sequence[Labelled], trained_on: Sequence[TrainedOn]) -> None:
    choice = choose(rows, FIT)
    model = fit_text(rows, choice.config, trained_on)
    text = json.dumps(model.model_dump(mode="json"), ensure_ascii=False, indent=0)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"{path}: strength {choice.config.strength:g}, above {choice.above}")


if __name__ == "__main__":
    main(sys.argv[1])
