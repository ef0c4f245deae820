"""Fit the text model that the shipped constitution `refusal_style_fitted` uses: does the reply do what was asked?

    CAI_EVAL_DATA=/path/to/data python benchmarks/fit_refusals.py constitutions/refusal_style_fitted.json

From human labels in `refusal_style`: XSTest's completions of three models (arXiv:2308.01263, CC BY 4.0; full compliance against
the rest) and GPTFuzz's replies to jailbreaks (arXiv:2309.10253, MIT), of which each counts a tenth, for there are five times as
many and they are of one kind. Runs of words in fewer than 30 replies are left out: no rare text of the sets is in the model.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main(output: str) -> None:
    where = os.environ.get("CAI_EVAL_DATA")
    if not where:
        sys.exit("fit_refusals: set CAI_EVAL_DATA to the folder with refusal_style/xstest and refusal_style/gptfuzz")
    data = Path(where) / "refusal_style"
    with tempfile.TemporaryDirectory() as folder:
        xstest, gptfuzz = Path(folder) / "XSTest completions.jsonl", Path(folder) / "GPTFuzz train.jsonl"
        with xstest.open("w", encoding="utf-8") as out:
            for path in sorted((data / "xstest").glob("completions_*.csv")):
                for row in rows(path):
                    told = {"prompt": row["prompt"], "response": row["completion"]}
                    out.write(json.dumps(told | {"holds": row["final_label"] == "1_full_compliance"}) + "\n")
        with gptfuzz.open("w", encoding="utf-8") as out:
            for row in rows(data / "gptfuzz" / "train.csv"):
                told = {"prompt": f"question {row['question']}", "response": row["Response"]}
                out.write(json.dumps(told | {"holds": row["label"] == "1", "weight": 0.1}) + "\n")
        given = ["--input", str(xstest), "--licence", "CC BY 4.0", "--input", str(gptfuzz), "--licence", "MIT"]
        command = [sys.executable, "-m", "cai.cli", "fit-text", *given, "--replies", "30", "--output", output]
        subprocess.run(command, check=True)  # noqa: S603


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


if __name__ == "__main__":
    main(sys.argv[1])
