"""Round trips of written prompts, and failures while writing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from data_toys import prompt

from cai.data.readers import prompt_rows
from cai.data.writers import write_prompts
from cai.errors import StoreError
from cai.records import Prompt, chat_of


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    prompts = [
        prompt("a", kind="benign"),
        Prompt(chat=chat_of(("user", "b"), ("assistant", "c"), ("user", "d")), user="u"),
    ]
    assert write_prompts(tmp_path / name, iter(prompts)) == 2
    assert list(prompt_rows(tmp_path / name)) == prompts


def test_a_failure_leaves_no_half_file(tmp_path: Path) -> None:
    def broken() -> Iterator[Prompt]:
        yield prompt("a")
        raise RuntimeError("on the way")

    with pytest.raises(StoreError, match="on the way"):
        write_prompts(tmp_path / "out.jsonl", broken())
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("name", ["x.csv", "x.TSV", "x.xlsx", "x.jsonl.gz"])
def test_names_of_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="JSONL or Parquet only"):
        write_prompts(tmp_path / name, [])
    assert not list(tmp_path.iterdir())
