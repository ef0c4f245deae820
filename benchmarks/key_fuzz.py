"""Commands with marked secrets against servers that repeat them: no file, no stream holds a mark.

    python benchmarks/key_fuzz.py [RUNS] [PROCESSES] [SEED]

By default 1,000 runs, 120 of them in processes of their own. Prints counts of exit codes, and of
runs that let a part of a secret out, or ended with a traceback; exit code 1 if there are any.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from key_fuzz import fuzz_keys

if __name__ == "__main__":
    runs, processes, seed = (
        int(sys.argv[i]) if len(sys.argv) > i else default
        for i, default in ((1, 1000), (2, 120), (3, 0))
    )
    with tempfile.TemporaryDirectory() as folder:
        counts = fuzz_keys(Path(folder), runs, seed, processes)
    print(dict(sorted(counts.items())))
    sys.exit(1 if counts["leaks"] or counts["tracebacks"] else 0)
