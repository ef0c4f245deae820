"""Kill every command that writes files, run it again, and compare its files with undisturbed ones.

    python benchmarks/kill_tools.py [MOMENTS] [SEED]

Each command is killed (SIGKILL) before each of its file operations, and at MOMENTS (20) random
times of its own running time. Prints the number of runs, of those killed before their end, and of
those whose files differ in a byte or that did not run again.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from forked_commands import fork_server
from killed_tools import KilledTool
from toys import save_tiny
from writing_tools import TOOLS, write_inputs, write_preference_model


def main(moments: int, seed: int) -> int:
    total_runs, total_kills, faults = 0, 0, []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_inputs(folder / "in")
        save_tiny(folder / "in" / "tiny")
        write_preference_model(folder / "in")
        with fork_server(folder) as server:
            for name in TOOLS:
                (folder / name).mkdir()
                tool = KilledTool(name, server, folder / "in", folder / name)
                runs, found = kill_often(tool, moments, random.Random(f"{seed} {name}"))
                print(f"{name}: {runs} runs, {tool.killed} killed, {len(found)} faults", flush=True)
                total_runs += runs
                total_kills += tool.killed
                faults += [f"{name}: {fault}" for fault in found]
    summary = f"{total_runs} runs, {total_kills} killed, {len(faults)} faults"
    print(f"{len(TOOLS)} commands: {summary}", *faults, sep="\n")
    return 1 if faults else 0


def kill_often(tool: KilledTool, moments: int, stream: random.Random) -> tuple[int, list[str]]:
    """(number of runs, what went wrong)"""
    started = time.monotonic()
    tool.run_in("timed")
    seconds = time.monotonic() - started
    faults = [tool.fault_after_kill(at=at) for at in range(tool.result.writes)]
    faults += [tool.fault_after_kill(after=stream.uniform(0, seconds)) for _ in range(moments)]
    return len(faults), [fault for fault in faults if fault]


if __name__ == "__main__":
    options = [int(option) for option in sys.argv[1:]]
    sys.exit(main(*(options + [20, 0][len(options) :])))
