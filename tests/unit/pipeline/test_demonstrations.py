"""Demonstrations of others, `sft.extra`: shapes, errors, filters, and what a stage depends on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from json_lines import write_lines

from cai.artifacts import HELD_OUT, REVISIONS
from cai.data.demonstrations import demonstrations
from cai.data.filters import HygieneConfig
from cai.errors import StoreError
from cai.pipeline.config import load_run, settings_text
from cai.pipeline.sft_data import extra_provenance, sft_rows
from cai.records import Prompt, Revision, chat_of
from cai.train.sft import SFTConfig

EGG = {"prompt": "How long does an egg take?", "response": " Eight minutes. ", "kind": "benign"}


def test_the_shapes_of_rows(tmp_path: Path) -> None:
    """A prompt with its reply, TRL's columns, and turns of which the last is the reply."""
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Until then."},
    ]
    file = tmp_path / "extra.jsonl"
    write_lines(
        file,
        EGG,
        {"prompt": [{"role": "user", "content": "Tea?"}], "completion": turns[1:2]},
        {"messages": turns},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    )
    rows = list(demonstrations(file))
    assert [row.reply for row in rows] == ["Eight minutes.", "Hello!", "Until then.", "b"]
    assert rows[0].prompt.kind == "benign"
    assert [m.content for m in rows[2].prompt.chat] == ["Hi", "Hello!", "Bye"]
    csv = tmp_path / "extra.csv"
    csv.write_text("prompt,response\nTea?,Yes.\n")
    assert [row.reply for row in demonstrations(csv)] == ["Yes."]


def load(folder: Path, rows: Sequence[object], key: str = "[extra.jsonl]") -> Any:
    (folder / "extra.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_lines(folder / "prompts.jsonl", {"prompt": "Hi"})
    (folder / "run.yaml").write_text(
        "name: x\nmodel: fake:echo\nconstitution: harmless\nprompts: [prompts.jsonl]\n"
        f"sft: {{extra: {key}}}\n"
    )
    return load_run(folder / "run.yaml")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Hi"}, "a line needs `response`"),
        ({"prompt": "Hi", "response": "  "}, "the reply is empty"),
        ({"response": "Hello!"}, "a row needs either `prompt`"),
        ({"prompt": "Hi", "response": "Yes.", "kind": "bening"}, "kind"),
        ({"prompt": "", "response": "Yes."}, "chat must end with a non-empty user turn"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "a line needs `response`"),
    ],
)
def test_a_wrong_row_ends_the_run_when_it_is_loaded(
    tmp_path: Path, row: object, message: str
) -> None:
    with pytest.raises(StoreError, match=rf"extra\.jsonl:2: .*{re.escape(message)}") as caught:
        load(tmp_path, [EGG, row])
    assert "\n" not in str(caught.value)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"run\.yaml:5: sft\.extra: no such file: none\.jsonl"):
        load(tmp_path, [EGG], "[none.jsonl]")
    with pytest.raises(StoreError, match=r"extra\.jsonl: no demonstration in it"):
        load(tmp_path, [])


def test_saved_settings_name_the_file(tmp_path: Path) -> None:
    resolved = load(tmp_path, [EGG])
    assert json.loads(settings_text(resolved))["extra"] == [str(tmp_path / "extra.jsonl")]


def context(folder: Path, **settings: object) -> Any:
    """The parts of a run's context that are read."""
    rows = [
        EGG,
        EGG,
        {"prompt": "Write to ann@example.org", "response": "Done."},
        {"prompt": "Tell me, what is the tall thing in Paris called?", "response": "A tower."},
    ]
    write_lines(folder / "extra.jsonl", *rows)
    chat = chat_of(("user", "Hello"))
    revision = Revision(source="s", chat=chat, initial="Hi.", final="Hi.")
    (folder / REVISIONS).write_text(revision.line() + "\n")
    held_out = Prompt(chat=chat_of(("user", "What is the tall thing in Paris called?")))
    (folder / HELD_OUT).write_text(held_out.line() + "\n")
    config = SFTConfig.model_validate({"extra": ("extra.jsonl",), **settings})
    run = SimpleNamespace(sft=config, hygiene=HygieneConfig(pii="mask"))
    resolved = SimpleNamespace(run=run, against=(), extra=(folder / "extra.jsonl",))
    path = lambda name: folder / name  # noqa: E731
    unseen = lambda: [folder / HELD_OUT]  # noqa: E731
    return SimpleNamespace(
        run=run, resolved=resolved, path=path, require=path, unseen_prompts=unseen, seed=0
    )


def test_they_are_filtered_and_counted(tmp_path: Path) -> None:
    """Repeated, masked, and not on a prompt of the evaluation; the run's own row stays."""
    rows, counts = sft_rows(context(tmp_path))
    assert [(row.chat[-1].content, row.reply) for row in rows] == [
        ("Hello", "Hi."),
        ("How long does an egg take?", "Eight minutes."),
        ("Write to [EMAIL]", "Done."),
    ]
    assert counts == {"extra": 2, "extra repeated": 1, "extra in an evaluation": 1}


def test_an_edited_file_makes_the_stage_stale(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    before = extra_provenance(ctx)
    assert before.keys() == {"extra extra.jsonl", f"input {HELD_OUT}"}
    write_lines(tmp_path / "extra.jsonl", EGG)
    after = extra_provenance(ctx)
    assert after["extra extra.jsonl"] != before["extra extra.jsonl"]
