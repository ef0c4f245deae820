"""Two processes started by torchrun, as tests of distributed training need them."""

from __future__ import annotations

import os
import subprocess
import sys


def run_two_processes(*arguments: object) -> None:
    """`torchrun --nproc-per-node 2 ARGUMENTS`, which has to succeed within four minutes."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = [sys.executable, *launcher, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-12000:]
