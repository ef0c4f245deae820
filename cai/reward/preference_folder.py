"""A preference model as its folder: that of a run, or of `cai fit-reward`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cai.artifacts import REWARD, SFT
from cai.errors import StoreError, UsageError, blame
from cai.modeling.loading import fingerprint, load_frozen
from cai.modeling.lora import with_adapter
from cai.modeling.model_files import training_weights
from cai.modeling.tokenization import load_renderer
from cai.records import Chat
from cai.reward.preference_model import ADAPTER, HEAD_FILE, MODEL_FOLDER, PreferenceModel
from cai.reward.published_model import PUBLISHED_FILE, load_saved_model
from cai.reward.scale import ReplyScorer
from cai.store import file_digest


class OpenedPreferenceModel(NamedTuple):
    """A preference model that is ready to score."""

    model: ReplyScorer
    fingerprint: str
    """Digest of its files and those of its base."""

    def score(self, replies: Sequence[tuple[Chat, str]]) -> list[float | None]:
        """Normalised rewards; None for a chat and reply that are longer than the window."""
        return self.model.score_within_window([self.model.rows(*pair) for pair in replies])


def open_preference_model(folder: Path) -> OpenedPreferenceModel:
    """The preference model of a folder; of a run's folder, its 50-reward. That may name a published
    model.

    Its base is the run's fine-tuned model, which lies beside it, or else the model that the folder
    names; or its every weight was trained, and the model is in the folder.

    Raises:
        UsageError: it is no such folder.
        StoreError: a file of it is missing or torn, or its base is not known.
    """
    if not (folder / HEAD_FILE).exists() and (folder / REWARD / HEAD_FILE).exists():
        folder = folder / REWARD
    published = next((f for f in (folder, folder / REWARD) if (f / PUBLISHED_FILE).exists()), None)
    if published is not None:
        scorer = load_saved_model(published)
        return OpenedPreferenceModel(scorer, f"{file_digest(published)} {scorer.fingerprint}")
    if not (folder / HEAD_FILE).exists():
        raise UsageError(
            f"--preference {folder}: no {HEAD_FILE} in it: name a run's folder, its {REWARD}, or a"
            " folder of cai fit-reward"
        )
    if (folder / MODEL_FOLDER).exists():
        return OpenedPreferenceModel(PreferenceModel.load_full(folder), file_digest(folder))
    base = _base_of(folder)
    with blame(StoreError, f"{folder}: preference model"):
        settings = json.loads((folder / HEAD_FILE).read_text(encoding="utf-8"))
        rank, layers = int(settings["rank"]), settings["layers"]
    shared = with_adapter(load_frozen(base), ADAPTER, rank, layers)
    model = PreferenceModel.load(shared, load_renderer(base), folder)
    return OpenedPreferenceModel(model, f"{file_digest(folder)} on {fingerprint(base)}")


def _base_of(folder: Path) -> str:
    sft = folder.resolve().parent / SFT
    if folder.resolve().name == REWARD and sft.exists():
        return str(sft)
    with blame(StoreError, f"{folder}: preference model"):
        base = json.loads((folder / HEAD_FILE).read_text(encoding="utf-8")).get("base")
    if not isinstance(base, str):
        raise StoreError(
            f"{folder}: {HEAD_FILE} does not name the model under the adapter: add it as"
            ' "base": "local:FOLDER", or keep the folder beside the run\'s 20-sft'
        )
    return training_weights(base)
