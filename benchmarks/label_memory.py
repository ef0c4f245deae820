"""Memory that `cai label`, `cai revise` and `cai grade` take for each row of a file.

    python benchmarks/label_memory.py [ROWS]

Each command runs in a process of its own, on a tenth of the rows and on all of them, with a fake
model. What grows with the rows is the difference of the two peaks; printed in bytes a row.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

DEFAULT_ROWS = 20_000
COMMANDS = {
    "label": ["--model", "fake:brief"],
    "revise": ["--model", "fake:polite"],
    "grade": [],
}


def rows(count: int) -> Iterator[dict[str, str]]:
    for number in range(count):
        prompt = f"Question {number}: " + "what is the best way to do this, and why? " * 5
        reply = f"Answer {number}: " + "it depends on what there is to begin with. " * 5
        yield {"prompt": prompt, "first": reply, "second": reply[:-40], "response": reply}


def peak_bytes(command: str, source: Path, output: Path) -> int:
    """Peak memory of the command, measured by the process that runs it."""
    code = (
        "import resource, sys\n"
        "from cai.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stdout)\n"
    )
    options = ["--constitution", "harmless", "--input", str(source), "--output", str(output)]
    arguments = [sys.executable, "-c", code, command, *options, *COMMANDS[command]]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    return int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)


def main(count: int) -> None:
    for command in COMMANDS:
        peaks = []
        with tempfile.TemporaryDirectory() as folder:
            for size in (count // 10, count):
                source = Path(folder) / f"{size}.jsonl"
                source.write_text("".join(json.dumps(row) + "\n" for row in rows(size)))
                peaks.append(peak_bytes(command, source, Path(folder) / f"{size}.out.jsonl"))
        growth = (peaks[1] - peaks[0]) / (count - count // 10)
        print(f"{command}: {peaks[1] / 2**20:.0f} MiB for {count:,} rows, {growth:.0f} bytes a row")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROWS)
