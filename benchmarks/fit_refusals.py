"""The text model of the shipped constitution `refusal_style_fitted`, fitted: does a reply comply?

    CAI_EVAL_DATA=/path/to/data \\
        python benchmarks/fit_refusals.py constitutions/refusal_style_fitted.json

Fitted on human labels in `refusal_style`: XSTest's completions of three models (arXiv:2308.01263,
CC BY 4.0; full compliance against the rest) and GPTFuzz's replies to jailbreaks (arXiv:2309.10253,
MIT). A GPTFuzz reply has a weight of one tenth, for there are five times as many and they are of
one kind. N-grams in fewer than 30 replies are left out: no rare text of the sets is in the model.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main(output: str) -> None:
    root = os.environ.get("CAI_EVAL_DATA")
    if not root:
        sys.exit(
            "fit_refusals: set CAI_EVAL_DATA to the folder with refusal_style/xstest "
            "and refusal_style/gptfuzz"
        )
    data = Path(root) / "refusal_style"
    with tempfile.TemporaryDirectory() as folder:
        xstest = Path(folder) / "XSTest completions.jsonl"
        gptfuzz = Path(folder) / "GPTFuzz train.jsonl"
        write_xstest(data, xstest)
        write_gptfuzz(data, gptfuzz)
        inputs = ["--input", str(xstest), "--licence", "CC BY 4.0"]
        inputs += ["--input", str(gptfuzz), "--licence", "MIT"]
        model = Path(folder) / "model.json"
        options = [*inputs, "--replies", "30", "--output", str(model)]
        command = [sys.executable, "-m", "cai.cli", "fit-text", *options]
        subprocess.run(command, check=True)  # noqa: S603
        shutil.move(model, output)  # without its manifest: the command replaces no other file


def write_xstest(data: Path, output: Path) -> None:
    with output.open("w", encoding="utf-8") as out:
        for path in sorted((data / "xstest").glob("completions_*.csv")):
            for row in rows(path):
                line = {
                    "prompt": row["prompt"],
                    "response": row["completion"],
                    "holds": row["final_label"] == "1_full_compliance",
                }
                out.write(json.dumps(line) + "\n")


def write_gptfuzz(data: Path, output: Path) -> None:
    with output.open("w", encoding="utf-8") as out:
        for row in rows(data / "gptfuzz" / "train.csv"):
            line = {
                "prompt": f"question {row['question']}",
                "response": row["Response"],
                "holds": row["label"] == "1",
                "weight": 0.1,
            }
            out.write(json.dumps(line) + "\n")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


if __name__ == "__main__":
    main(sys.argv[1])
