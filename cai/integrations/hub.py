"""A run's models and data as folders that the Hugging Face Hub takes, and their upload.

Each folder is one repository: the policy, the fine-tuned model, the training data. Nothing is sent
without `upload_folders`, which makes private repositories and needs a token from the environment.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from cai import store
from cai.artifacts import CARD, POLICY, SFT
from cai.errors import JobError, StoreError, UsageError, blame
from cai.integrations.export import export, has_training_data
from cai.report.model_cards import is_finished_model, model_card, read_facts

TOKEN = "HF_TOKEN"  # noqa: S105 - the name of the variable
"""Environment variable with the token of the Hub."""
MODELS = {"policy": POLICY, "sft": SFT}
"""Folder of an export -> the run's folder that it is a copy of."""
DATA = "data"
SUFFIXES = {"policy": "", "sft": "-sft", DATA: "-data"}
"""Folder of an export -> what its repository's name adds to the one that was given."""
NOT_EXPORTED = ("checkpoints", CARD)


@dataclass(frozen=True)
class HubFolder:
    """A folder of an export, to become one repository."""

    path: Path
    kind: Literal["model", "dataset"]

    @property
    def files(self) -> list[tuple[str, int]]:
        """(name, bytes) of each file, by name."""
        return [
            (str(file.relative_to(self.path)), file.stat().st_size)
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
        ]

    def repository(self, name: str) -> str:
        """The name of its repository, when `name` is that of the policy."""
        return name + SUFFIXES[self.path.name]


def export_for_hub(
    run: Path, out: Path, *, license: str | None = None, language: str | None = None
) -> list[HubFolder]:
    """Write `policy`, `sft` and `data`, as far as the run has them, into the new folder `out`.

    Args:
        license: for the cards, as the Hub spells it.
        language: for the cards, as a two-letter code.

    Raises:
        StoreError: nothing to export, a torn or unfinished file, or `out` exists.
    """
    models = {name: run / source for name, source in MODELS.items()}
    models = {name: source for name, source in models.items() if is_finished_model(source)}
    if not models and not has_training_data(run):
        raise StoreError(f"{run}: no finished model and no training data in it: nothing to export")
    with store.new_folder(out), store.atomic_directory(out) as folder:
        facts = read_facts(run)
        for name, source in models.items():
            with blame(StoreError, f"{source}"):
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns(*NOT_EXPORTED))
            card = model_card(source.name, facts, license=license, language=language)
            store.atomic_write(folder / name / CARD, card.content)
        if has_training_data(run):
            export(run, folder / DATA, license=license, language=language)
    return hub_folders(out)


def hub_folders(out: Path) -> list[HubFolder]:
    """The folders of an export, each with a card whose front matter the Hub's library accepts.

    Raises:
        StoreError: `out` is no export for the Hub, or a card is missing or not valid.
    """
    folders: list[HubFolder] = []
    for name in SUFFIXES:
        path = out / name
        if not path.is_dir():
            continue
        card = path / CARD
        kind: Literal["model", "dataset"] = "dataset" if name == DATA else "model"
        try:
            text = card.read_text(encoding="utf-8")
            (DatasetCard if kind == "dataset" else ModelCard)(text)
        except OSError as error:
            raise StoreError(f"{card}: cannot read: {error.strerror}") from None
        except Exception as error:  # the library raises what its YAML reader does
            reason = " ".join(str(error).split())
            raise StoreError(f"{card}: no valid card: {reason}; mend its front matter") from None
        folders.append(HubFolder(path, kind))
    if not folders:
        raise StoreError(f"{out}: no export for the Hub: {', '.join(SUFFIXES)} are missing")
    return folders


def check_upload(repository: str) -> str:
    """The token, if the repository's name and the environment let an upload begin.

    Raises:
        UsageError: they do not.
    """
    try:
        if repository.count("/") != 1:
            raise HFValidationError("it has the form OWNER/NAME")
        for suffix in SUFFIXES.values():
            validate_repo_id(repository + suffix)
    except HFValidationError as error:
        raise UsageError(f"--upload {repository}: not a repository's name: {error}") from None
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UsageError(f"--upload: no token: set {TOKEN} in the environment")
    return token


def upload_folders(folders: Sequence[HubFolder], repository: str, token: str) -> list[str]:
    """Send each folder to its repository, which is private when it is new; their addresses.

    Raises:
        JobError: the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    addresses = []
    for folder in folders:
        name = folder.repository(repository)
        try:
            url = api.create_repo(name, repo_type=folder.kind, private=True, exist_ok=True)
            api.upload_folder(
                repo_id=name,
                repo_type=folder.kind,
                folder_path=folder.path,
                commit_message="Upload by cai export",
            )
        except Exception as error:  # of the library, of HTTP, of the network
            reason = " ".join(str(error).replace(token, "[token]").split())[:300]
            raise JobError(f"--upload {name}: {type(error).__name__}: {reason}") from None
        addresses.append(str(url))
    return addresses
