"""A process that runs commands in forks of itself, and kills or stops them at a write.

Run as a script, it reads one job a line from standard input and prints one result a line. It has
imported what the commands need: a fork starts at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
PATH_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")
HANDLE_EVENTS = ("os.truncate", "fcntl.flock")


@dataclass(frozen=True)
class Result:
    """How a command ended, or that it is stopped."""

    code: int | None
    """Exit code; minus the signal that killed it; None while it is stopped."""
    writes: int
    """File operations below the watched folder; 0 where a signal ended it."""
    err: str


class ForkServer:
    """The process, from the side of a test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(
        self,
        watched: Path,
        *arguments: object,
        at: int | None = None,
        stop: bool = False,
        after: float | None = None,
    ) -> Result:
        """Run a command.

        Args:
            watched: folder whose file operations are counted.
            at: kill the command just before this operation (the first is 0). Where that is a
                write, half of it is done.
            stop: stop it there instead; `resume` lets it go on.
            after: kill it after so many seconds.
        """
        job = {"watched": str(watched), "arguments": [str(a) for a in arguments], "at": at}
        return self._ask(job | {"stop": stop, "after": after})

    def resume(self) -> Result:
        """Let the stopped command go on to its end."""
        return self._ask({"resume": True})

    def _ask(self, job: dict[str, Any]) -> Result:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return Result(**json.loads(self.process.stdout.readline()))


@contextmanager
def fork_server(folder: Path) -> Iterator[ForkServer]:
    """Start the process.

    Args:
        folder: for what commands print.
    """
    paths = os.pathsep.join((str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")))
    with subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            yield ForkServer(process)
        finally:
            process.kill()


class _Moment:
    """Counts the file operations below a folder, and signals the process at one of them."""

    def __init__(self, watched: str, at: int | None, number: signal.Signals) -> None:
        self.watched = watched
        self.at = at
        self.number = number
        self.count = 0
        self.write = os.write

    def begin(self) -> None:
        sys.addaudithook(self._on_event)
        os.write = self._on_write

    def _is_now(self) -> bool:
        self.count += 1
        return self.count - 1 == self.at

    def _signal(self) -> None:
        os.kill(os.getpid(), self.number)

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in PATH_EVENTS:
            if not any(str(path).startswith(self.watched) for path in arguments[:2]):
                return
            if event == "open" and not arguments[2] & WRITES:
                return
        elif event not in HANDLE_EVENTS:
            return
        if self._is_now():
            self._signal()

    def _on_write(self, handle: int, data: bytes) -> int:
        target = os.readlink(f"/proc/self/fd/{handle}")
        if target.startswith(self.watched) and self._is_now():
            half = len(data) // 2
            self.write(handle, data[:half])
            self._signal()
            return half
        return self.write(handle, data)


def _run_in_fork(job: dict[str, Any], folder: Path) -> int:
    """The process id of the fork that runs the job's command."""
    child = os.fork()
    if child:
        return child
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    from cai.cli import main

    number = signal.SIGSTOP if job["stop"] else signal.SIGKILL
    moment = _Moment(job["watched"], job["at"], number)
    code: Any = 70
    try:
        moment.begin()
        main(job["arguments"])
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.stderr.flush()
        (folder / "writes").write_text(str(moment.count))
        os._exit(code if isinstance(code, int) else 71)
    raise AssertionError


def _result(child: int, folder: Path) -> Result:
    _, status = os.waitpid(child, os.WUNTRACED)
    err = (folder / "err").read_text(encoding="utf-8", errors="replace")
    if os.WIFSTOPPED(status):
        return Result(None, 0, err)
    code = os.waitstatus_to_exitcode(status)
    return Result(code, int((folder / "writes").read_text()) if code >= 0 else 0, err)


def _import_all() -> None:
    import importlib

    for name in (
        "cai.attacks.rounds",
        "cai.catalog.prepare",
        "cai.cli.elo_evaluation",
        "cai.cli.evaluation_rows",
        "cai.cli.model_evaluation",
        "cai.data.dedupe",
        "cai.data.preferences",
        "cai.data.readers",
        "cai.data.writers",
        "cai.evals.refusal",
        "cai.generate.label",
        "cai.generate.redteam",
        "cai.generate.revise",
        "cai.graders.guard",
        "cai.integrations.export",
        "cai.lm",
        "cai.lm.caching",
        "cai.lm.fake",
        "cai.pipeline.preference_model",
        "cai.pipeline.project",
        "cai.rubric.fit_weights",
        "cai.rubric.llm_grader",
        "cai.rubric.near_miss",
        "cai.rubric.propose",
        "cai.rubric.text_classifier",
        "cai.train.cross_validation",
        "rensa",
        "pandas",
        "pyarrow.parquet",
        "scipy.optimize",
        "sqlite3",
    ):
        importlib.import_module(name)


def _prepare() -> None:
    """What is kept for the next command of a process is here for all forks."""
    from cai.cli import main
    from cai.constitution import load_with_rubric
    from cai.rubric import compile_rubric

    for name in ("harmless", "refusal_style_fitted"):
        _, rubric = load_with_rubric(name)
        compile_rubric(rubric)
    with suppress(SystemExit):
        main(["check", "harmless", "--no-such-option"])


def _serve(folder: Path) -> None:
    _import_all()
    _prepare()
    child = 0
    for line in sys.stdin:
        job = json.loads(line)
        if "resume" in job:
            os.kill(child, signal.SIGCONT)
        else:
            child = _run_in_fork(job, folder)
            if job["after"] is not None:
                time.sleep(job["after"])
                os.kill(child, signal.SIGKILL)
        print(json.dumps(vars(_result(child, folder))), flush=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
