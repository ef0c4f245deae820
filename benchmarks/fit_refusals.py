"""The sentence model of the shipped constitution `refusal_style_fitted`, fitted.

    CAI_EVAL_DATA=/path/to/data python benchmarks/fit_refusals.py constitutions

Writes `refusal_style_replies.json`: what each sentence of a reply does, and outputs about the reply
(see reply_model.py). It is fitted on replies written for this project, and two of its outputs on
replies with human labels that may be used freely too (see refusal_sets.py). N-grams of the text
models are in ten replies or more, so no rare text of the sets is in the file. Prints the threshold
of each output, for `above` in the constitution.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import refusal_sets
from reply_model import Degrees, Written, class_outputs, summaries_of, thresholds

from cai.constitution.schema import TrainedOn
from cai.rubric.fit_sentences import with_outputs

NAME = "refusal_style_replies.json"


def main(folder: str) -> None:
    data = refusal_sets.data_folder("fit_refusals")
    xstest = refusal_sets.xstest(data)
    gptfuzz = refusal_sets.some_of_each_question(refusal_sets.gptfuzz(data))
    by_rule = refusal_sets.written()
    written = Written.load()
    trained_on = [
        TrainedOn(name=title, rows=rows, licence=licence)
        for title, licence, rows in (
            ("XSTest completions", "CC BY 4.0", len(xstest)),
            ("GPTFuzz train", "MIT", len(gptfuzz)),
            ("replies written by rule", "Apache-2.0", len(by_rule)),
            ("replies written by language models", "Apache-2.0", len(written.replies)),
        )
    ]
    replies = [*xstest, *gptfuzz, *by_rule]
    degrees = Degrees(replies, summaries_of(written.model, replies), written)
    every = range(len(replies))
    model = with_outputs(
        written.model.model_copy(update={"trained_on": tuple(trained_on)}),
        {
            "complies": degrees.fit(every, of_refusals=False),
            "refuses_in_part": degrees.fit(every, of_refusals=True),
            **class_outputs(written),
        },
    )
    text = json.dumps(model.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":"))
    path = Path(folder) / NAME
    path.write_text(text + "\n", encoding="utf-8")
    print(f"{path}: {len(text) / 1e6:.2f} MB")
    for name, (above, f1) in thresholds(written).items():
        print(f"{name}: above {above}, F1 {f1:.2f} in folds of the written replies")


if __name__ == "__main__":
    main(sys.argv[1])
