"""Fine-tuning text in PPO's loss: micro-batches, and text that is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ppo_toys import CONFIG, PROMPTS, fresh_actor, fresh_trainer, rollout_of, train, with_settings

from cai.data.filters import HygieneConfig
from cai.errors import StoreError, TrainError
from cai.modeling.tokenization import load_renderer
from cai.pipeline.training_stages import _ptx_texts
from cai.records import Revision, chat_of
from cai.train.ppo import ptx
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.ptx import pretraining_chunks, ptx_losses
from cai.train.sft import SFTConfig


def test_micro_batches_of_texts_do_not_change_the_loss(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Micro-batches of two texts, or all five at once: the same loss and gradient, to rounding."""
    renderer, sizes, results = load_renderer(tiny_model), [], []
    texts = [
        rollout_of([65 + i] * (i + 1) + [renderer.eos_token_id], renderer, PROMPTS[i])
        for i in range(5)
    ]
    forward = ptx.response_hidden
    monkeypatch.setattr(
        ptx,
        "response_hidden",
        lambda model, batch, *more: (sizes.append(len(batch)), forward(model, batch, *more))[1],
    )
    for rows in (2, 64):
        actor = fresh_actor(tiny_model)
        loss = 0.0
        for part in ptx_losses(actor.policy, texts, rows):
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
        results.append(
            (loss, [p.grad.clone() for p in actor.trainable_parameters() if p.grad is not None])
        )
    assert sizes == [2, 2, 1, 5]
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-5)
    for accumulated, at_once in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(accumulated, at_once, atol=1e-5, rtol=1e-4)


def test_missing_texts_are_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="there is no fine-tuning text"):
        train(fresh_trainer(tiny_model, with_settings(CONFIG, ptx={"coef": 1.0})), tmp_path)


def test_files_become_chunks_of_tokens(tiny_model: Path, tmp_path: Path) -> None:
    """A token a byte, eight to a chunk: all of the text, each chunk predicted from its first token.

    A last chunk of one token would predict nothing, and is left out.
    """
    renderer = load_renderer(tiny_model)
    plain, rows = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("abcdefghij")
    rows.write_text('{"text": "ABCDEFGHI"}\n{"text": "xyz"}\n')
    chunks = pretraining_chunks([plain, rows], renderer, 8, seed=0)
    assert [renderer.text(first + rest) for first, rest in chunks] == [
        "abcdefgh",
        "ij",
        "ABCDEFGH",
        "xyz",
    ]
    assert {len(first) for first, _ in chunks} == {1}
    config = with_settings(CONFIG, num_updates=1, ptx={"coef": 0.1, "batch_size": 3})
    [metrics] = fresh_trainer(tiny_model, config).train(PROMPTS, tmp_path / "run", chunks)
    assert metrics["ptx_loss"] > 0
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(StoreError, match=r"empty\.txt: no text in it"):
        pretraining_chunks([tmp_path / "empty.txt"], renderer, 8, seed=0)


def test_of_large_files_a_part_is_drawn(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of 400 rows, the same for a seed."""
    renderer, file = load_renderer(tiny_model), tmp_path / "a.jsonl"
    file.write_text("".join(f'{{"text": "row {i:03}"}}\n' for i in range(400)))
    monkeypatch.setattr(ptx, "MAX_BYTES", file.stat().st_size // 4)
    drawn = [pretraining_chunks([file], renderer, 8, seed) for seed in (0, 0, 1)]
    assert 70 < len(drawn[0]) < 130
    assert drawn[0] == drawn[1] != drawn[2]


def stage_texts(
    tiny: Path, folder: Path, ppo: dict[str, Any], files: Sequence[Path] = ()
) -> tuple[list[str], list[str]]:
    """(texts, lines for the user) of the ppo stage of a run with two revisions, one dropped."""
    chat = chat_of(("user", "hi"))
    rows = (
        Revision(source="a", chat=chat, initial="a", final="fine"),
        Revision(source="b", chat=chat, initial="b", final=None, dropped="too long"),
    )
    text = "".join(row.model_dump_json() + "\n" for row in rows)
    (folder / "10-revisions.jsonl").write_text(text)
    lines: list[str] = []
    context: Any = SimpleNamespace(
        run=SimpleNamespace(
            ppo=PPOConfig.model_validate(ppo), sft=SFTConfig(), hygiene=HygieneConfig()
        ),
        resolved=SimpleNamespace(ptx_files=tuple(files), against=(), extra=()),
        seed=0,
        path=lambda name: folder / name,
        notify=lines.append,
    )
    renderer = load_renderer(tiny)
    texts = _ptx_texts(context, renderer, window=6)
    return [renderer.text(first + rest) for first, rest in texts], lines


def test_the_recipe_that_means_pretraining_text_says_so(tiny_model: Path, tmp_path: Path) -> None:
    """On the run's own revisions; not with files, whose chunks are no longer than the window."""
    recipe = {"preset": "instructgpt"}
    texts, lines = stage_texts(tiny_model, tmp_path, recipe)
    assert len(texts) == 1
    assert texts[0].endswith("fine")
    assert len(lines) == 1
    assert lines[0].startswith("ppo.preset: instructgpt: its ptx.coef is meant for pretraining")
    file = tmp_path / "a.txt"
    file.write_text("abcdefghij")
    own = recipe | {"ptx": {"files": ["a.txt"]}}
    assert stage_texts(tiny_model, tmp_path, own, [file]) == (["abcdef", "ghij"], [])
    texts, lines = stage_texts(tiny_model, tmp_path, {"ptx": {"coef": 27.8}})
    assert (len(texts), lines) == (1, [])
    assert stage_texts(tiny_model, tmp_path, {}) == ([], [])
