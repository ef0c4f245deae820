"""What the package offers: sorted, importable, and light."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import cai
from cai import api
from cai.errors import CaiError
from cai.records import Row

PACKAGE = Path(cai.__file__).parent
MODULES = sorted(
    "cai." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
)


HOSTS = {
    "cai.integrations.inspect_plugin": "inspect_ai",
    "cai.integrations.plugins.verl_reward": "verl",
    "cai.integrations.plugins.verifiers_environment": "verifiers",
}
"""Plug-ins -> the program that they are for, without which they cannot be imported."""


@pytest.mark.parametrize("name", ["cai", *MODULES])
def test_every_all_is_sorted_and_importable(name: str) -> None:
    """Every module can be imported; where it says what it exports, that exists, is said once, and
    is in ruff's order: names in capitals, then classes, then the rest."""
    if host := HOSTS.get(name):
        pytest.importorskip(host, reason=f"{host}, which imports it, is not installed")
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert exported == sorted(
        set(exported), key=lambda each: (not each.isupper(), not each[0].isupper(), each)
    )
    assert [each for each in exported if not hasattr(module, each)] == []


def test_the_public_names() -> None:
    assert {
        "Constitution",
        "EvalConfig",
        "Grade",
        "LabelConfig",
        "Message",
        "PPOConfig",
        "PPOTrainer",
        "Pair",
        "Preference",
        "Prompt",
        "ReviseConfig",
        "Revision",
        "RewardConfig",
        "Score",
        "evaluate",
        "fit_preference_model",
        "grade",
        "label",
        "load_constitution",
        "open_lm",
        "revise",
    } <= set(cai.__all__)
    defined = {name for names in cai._MODULE_NAMES.values() for name in names}
    errors = {name for name in cai.__all__ if name.endswith("Error")}
    assert defined | errors | {"__version__"} == set(cai.__all__)
    assert set(api.__all__) <= set(cai.__all__)
    modules = {name.removeprefix("cai.") for name in MODULES}
    assert not modules & set(cai.__all__), "a submodule's import would replace the name"
    assert dir(cai) == cai.__all__
    assert cai.__version__ == version("cai")
    with pytest.raises(AttributeError, match="module 'cai' has no attribute 'nothing'"):
        _ = cai.nothing  # type: ignore[attr-defined]


def test_public_names_are_the_things_themselves() -> None:
    """A row type is a row, an error is in the tree (all of which is public), and the functions
    work.
    """

    def below(kind: type[CaiError]) -> set[str]:
        return {kind.__name__}.union(*map(below, kind.__subclasses__()))

    assert {name for name in cai.__all__ if name.endswith("Error")} == below(CaiError)
    assert all(
        issubclass(getattr(cai, name), Row)
        for name in ("Grade", "Pair", "Preference", "Prompt", "Revision", "Score")
    )
    assert isinstance(
        cai.load_constitution(PACKAGE.parent / "constitutions" / "harmless.yaml"), cai.Constitution
    )
    assert cai.load_constitution("harmless").name == "harmless"
    assert cai.open_lm("fake:echo").fingerprint == "fake:echo"


def test_import_is_light() -> None:
    """Neither the package nor what reads and grades constitutions waits for torch; asking for a
    public name does not either, but for two that train.
    """
    code = (
        "import sys, cai; first = [m for m in sys.modules if m.startswith('cai.')]; print(first)\n"
        "names = set(cai.__all__) - {'PPOTrainer', 'RewardConfig'}\n"
        "[getattr(cai, name) for name in names]\n"
        "import cai.cli, cai.rubric, cai.store\n"
        "heavy = ('torch', 'transformers', 'trl', 'datasets', 'matplotlib', 'scipy')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said == "[]\n[]\n"
