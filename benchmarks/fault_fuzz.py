"""Label pairs with an endpoint whose answers are mutated: right labels, or null with a reason.

    python benchmarks/fault_fuzz.py [ROWS] [SEED]

5,000 rows take 10,000 answers. Prints how many rows are labelled and how many are null.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tenacity import wait_none

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from answer_fuzz import fuzz

from cai.lm import http

if __name__ == "__main__":
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    http.retry_wait = wait_none()  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        print(dict(fuzz(Path(folder), rows, seed)))
