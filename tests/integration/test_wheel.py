"""The wheel, built and installed into a fresh environment: what a user of `pip install` has."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", str(folder), str(ROOT)], check=True, timeout=240)
    (file,) = folder.glob("cai-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel and, of other packages, this environment's."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "-q"]
    subprocess.run([*command, str(wheel)], check=True, timeout=240)
    site = next((home / "lib").glob("python*/site-packages"))
    # a plain path: the .pth files in that folder, this checkout's among them, are not read
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def run(installed: Path, folder: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [str(installed / arguments[0]), *arguments[1:]]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_shipped_files_and_no_other(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name.removeprefix("cai/shipped/") for name in names if "cai/shipped/" in name}
    assert {"quickstart.yaml", "audit_banks/en.yaml", "prompts/benign.jsonl"} <= shipped
    assert {path.name for path in (ROOT / "constitutions").iterdir()} == {
        name.removeprefix("constitutions/") for name in shipped if name.startswith("constitutions/")
    }
    assert "cai/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "docs", "benchmarks"))]


def test_commands_work_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    code = "import cai; print(cai.__file__)"
    assert run(installed, tmp_path, "python", "-c", code).startswith(str(installed.parent))
    assert "clean" in run(installed, tmp_path, "cai", "check", "harmless")
    assert "principles" in run(installed, tmp_path, "cai", "show", "assistant")
    run(installed, tmp_path, "cai", "init", "my-project")
    assert "clean" in run(installed, tmp_path, "cai", "check", "my-project/constitution.yaml")
    run(installed, tmp_path, "cai", "run", "my-project/run.yaml", "--until", "prompts")
    assert (tmp_path / "runs" / "my-project" / "00-prompts.jsonl").stat().st_size > 0
    run(installed, tmp_path, "cai", "run", "quickstart", "--until", "prompts")
    assert (tmp_path / "runs" / "quickstart" / "01-held-out.jsonl").exists()
