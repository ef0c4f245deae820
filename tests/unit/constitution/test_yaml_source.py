"""The YAML reader: errors name their line, and mistakes in any model are explained.

Line numbers are counted by hand in the texts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from cai.constitution import Source, parse, read_yaml
from cai.constitution.yaml_source import MAX_BYTES, MAX_DEPTH
from cai.errors import ConfigError


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Local(Strict):
    kind: Literal["local"]
    path: str


class Remote(Strict):
    kind: Literal["remote"]
    url: str


class Sft(Strict):
    learning_rate: float = Field(1e-4, gt=0, allow_inf_nan=False)
    epochs: int = 1
    packed: bool = False
    optimizer: Literal["adamw", "sgd"] = "adamw"


class Run(Strict):
    """A model other than a constitution.

    It has optional sections, a tagged union, maps of models, an alias and a pair of fixed types.
    """

    name: str = Field(min_length=1)
    sft: Sft | None = None
    model: Annotated[Local | Remote, Field(discriminator="kind")] | None = None
    stages: dict[str, Sft] = {}
    class_: int | None = Field(None, alias="class")
    bounds: tuple[float, Sft] | None = None


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "f.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path, model: type[BaseModel] | None = None) -> list[str]:
    """Lines of the ConfigError, without the folder."""
    with pytest.raises(ConfigError) as caught:
        parse(read_yaml(path), model or Run)
    return str(caught.value).replace(f"{path.parent}/", "").split("\n")


def test_every_key_and_item_has_its_line(tmp_path: Path) -> None:
    source = read_yaml(
        write(
            tmp_path, "# comment\na: 1\nb:\n  - x\n  - c: |\n      two\n      lines\n    d: 2.5\n"
        )
    )
    assert source.data == {"a": 1, "b": ["x", {"c": "two\nlines\n", "d": 2.5}]}
    assert source.lines == {
        (): 2,
        ("a",): 2,
        ("b",): 3,
        ("b", 0): 4,
        ("b", 1): 5,
        ("b", 1, "c"): 5,
        ("b", 1, "d"): 8,
    }
    assert source.line(("b", 1, "missing", 0)) == 5, "the nearest key that exists"
    assert source.line(("nowhere",)) == 2
    assert source.at(("b", 1, "d")) == f"{tmp_path}/f.yaml:8"


def test_words_that_yaml_1_1_would_turn_into_something_else_stay_text(tmp_path: Path) -> None:
    text = (
        "language: no\ntime: 12:30\nday: 2024-13-45\nbig: 1_000\nyes: on\n1: one\n"
        "t: true\nn: null\n"
        'e: "\\ud83d\\ude00"\n'
    )
    assert read_yaml(write(tmp_path, text)).data == {
        "language": "no",
        "time": "12:30",
        "day": "2024-13-45",
        "big": 1000,
        "yes": "on",
        "1": "one",
        "t": True,
        "n": None,
        "e": "\U0001f600",
    }


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    source = read_yaml(write(tmp_path, b"\xef\xbb\xbfa: 1\r\nb: 2\r\n"))
    assert (source.data, source.line(("b",))) == ({"a": 1, "b": 2}, 2)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "f.yaml:1: the file is empty"),
        ("# only a comment\n", "f.yaml:1: the file is empty"),
        ("- a\n", "f.yaml:1: the file must be a mapping (key: value lines), got a list"),
        (
            "\n\njust words\n",
            "f.yaml:3: the file must be a mapping (key: value lines), got the text 'just words'",
        ),
        ("a:\n\tb: 1\n", "f.yaml:2: a tab where YAML wants spaces: replace it"),
        ("a:\n  b: 1\n\tc: 1\n", "f.yaml:3: a tab where YAML wants spaces: replace it"),
        (
            "a: 1\nb: [1, 2\n",
            "f.yaml:3: not valid YAML: while parsing a flow sequence, expected ',' or ']', but got",
        ),
        ("a: 1\n b: 2\n", "f.yaml:2: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: not valid YAML: expected a single document"),
        ("a: 1\nb: &x 2\nc: *x\n", "f.yaml:3: aliases are not supported (*x): write the value out"),
        ("a: 1\n<<: {b: 1}\n", "f.yaml:2: merge keys (<<) are not supported: write the values out"),
        ("a: 1\n? [b]\n: 2\n", "f.yaml:2: a key must be a plain text"),
        (
            "a: 1\nb: !!python/object/apply:os.getcwd []\n",
            "f.yaml:2: the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'",
        ),
        (
            "a: 1\nb: !!python/name:os.system x\n",
            "f.yaml:2: the tag 'tag:yaml.org,2002:python/name:os.system'",
        ),
        (
            "a: 1\nb: !!binary aGk=\n",
            "f.yaml:2: the tag 'tag:yaml.org,2002:binary' is not supported: remove it",
        ),
        ("a: 1\nb: !!int x\n", "f.yaml:2: 'x' is not a number: put it in quotes if it is a text"),
        (f"a: 1\nb: {'9' * 5000}\n", "f.yaml:2: '99999999"),
        (f"a: 1\nb: 0x{'f' * 5000}\n", "f.yaml:2: the number is too large"),
        ('a: 1\nb: "\\ud800"\n', "f.yaml:2: the text holds half a surrogate pair"),
        ('a: 1\nb: "\\U00110000"\n', "f.yaml:2: not valid YAML: "),
        (b"a: 1\nb: \xff\xfe\n", "f.yaml:2: not UTF-8 text (byte 0xFF): is this the right file?"),
        (b"a: 1\nb: \x00\n", "f.yaml:2: character U+0000 is not allowed in YAML: remove it"),
        ("a: 1\nb: " + "[" * 5000, f"f.yaml:2: nested deeper than {MAX_DEPTH} levels"),
        ("a: 1\nb: " + "{c: " * 5000, f"f.yaml:2: nested deeper than {MAX_DEPTH} levels"),
        (
            "a: 1\n" + "".join(" " * i + "b:\n" for i in range(1, 900)),
            "f.yaml:2: not valid YAML: mapping values are not allowed here",
        ),
        (
            "".join(" " * i + "b:\n" for i in range(900)),
            f"f.yaml:{MAX_DEPTH}: nested deeper than {MAX_DEPTH} levels",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_at_its_line(
    tmp_path: Path, content: str | bytes, expected: str
) -> None:
    (line,) = refusal(write(tmp_path, content))
    assert line.startswith(expected)


def test_all_duplicate_keys_are_named_with_both_lines(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, "a: 1\nb:\n  c: 1\n  'c': 2\na: 3\n")) == [
        "f.yaml:4: b.c: duplicate key, first given on line 3",
        "f.yaml:5: a: duplicate key, first given on line 1",
    ]


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    """Its nodes are kept: neither what a caller does to the data nor a mistake is."""
    path = write(tmp_path, "names: [a, b]\n")
    read_yaml(path).data["names"].append("c")
    assert read_yaml(path).data == {"names": ["a", "b"]}
    assert read_yaml(write(tmp_path, "names: [d]\n")).data == {"names": ["d"]}
    wrong = write(tmp_path, "name: !!int x\n")
    assert refusal(wrong) == refusal(wrong)


def test_files_that_are_not_there_or_not_files(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml") == ["none.yaml: no such file"]
    (tmp_path / "folder").mkdir()
    assert refusal(tmp_path / "folder") == ["folder: is a directory, not a YAML file"]
    assert refusal(write(tmp_path, b"a: 1\n" + b"#" * MAX_BYTES)) == [
        "f.yaml: larger than 2 MB: is this the right file?"
    ]
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(Path("nul\0byte"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / ("x" * 5000))


def test_a_good_run_parses(tmp_path: Path) -> None:
    run = parse(
        read_yaml(
            write(
                tmp_path,
                "name: r\nclass: 3\nsft: {learning_rate: 1e-4}\nmodel: {kind: local, path: /m}\n",
            )
        ),
        Run,
    )
    assert (run.name, run.class_, run.model) == ("r", 3, Local(kind="local", path="/m"))
    assert run.sft is not None
    assert run.sft.learning_rate == 0.0001


def test_every_mistake_of_another_model_at_once(tmp_path: Path) -> None:
    text = """\
name: 7
clas: 3
sft:
  lerning_rate: 1.0
  learning_rate: 0
  epochs: 1.5
  packed: perhaps
  optimizer: adam
stages:
  warm:
    epoch: 2
  cold: fast
model:
  kind: remote
  ulr: http://x
bounds: [1, {epohcs: 1}]
zzz: 1
"""
    assert refusal(write(tmp_path, text), Run) == [
        "f.yaml:1: name: must be a text, got the number 7: put it in quotes",
        "f.yaml:2: clas: unknown key 'clas': did you mean 'class'?",
        "f.yaml:4: sft.lerning_rate: unknown key 'lerning_rate': did you mean 'learning_rate'?",
        "f.yaml:5: sft.learning_rate: must be greater than 0.0, got the number 0",
        "f.yaml:6: sft.epochs: must be a whole number, got the number 1.5",
        "f.yaml:7: sft.packed: must be true or false, got the text 'perhaps'",
        "f.yaml:8: sft.optimizer: must be 'adamw' or 'sgd', got the text 'adam': "
        "did you mean 'adamw'?",
        "f.yaml:11: stages.warm.epoch: unknown key 'epoch': did you mean 'epochs'?",
        "f.yaml:12: stages.cold: must be a mapping (key: value lines), got the text 'fast'",
        "f.yaml:13: model: the key 'url' is missing",
        "f.yaml:15: model.ulr: unknown key 'ulr': did you mean 'url'?",
        "f.yaml:16: bounds.1.epohcs: unknown key 'epohcs': did you mean 'epochs'?",
        "f.yaml:17: zzz: unknown key 'zzz'; valid keys: name, sft, model, stages, class, bounds",
    ]


def test_an_unknown_variant_and_an_empty_required_key(tmp_path: Path) -> None:
    assert refusal(
        write(tmp_path, "name:\nmodel: {kind: locl, path: x}\nsft: {learning_rate: .inf}\n"), Run
    ) == [
        "f.yaml:1: name: must be a text, got nothing",
        "f.yaml:2: model: 'kind' must be one of 'local', 'remote', got 'locl': "
        "did you mean 'local'?",
        "f.yaml:3: sft.learning_rate: must be a finite number, got the number inf",
    ]


def test_a_hostile_key_cannot_forge_a_line(tmp_path: Path) -> None:
    lines = refusal(write(tmp_path, 'name: x\n"a\\nf.yaml:9: forged": 1\n'), Run)
    assert len(lines) == 1
    assert lines[0].startswith("f.yaml:2: 'a\\nf.yaml:9: forged': unknown key")


def test_a_source_without_lines_still_explains() -> None:
    """A value from elsewhere, say the command line, is reported at the nearest key of the file."""
    with pytest.raises(ConfigError, match=r"^run\.yaml:1: the key 'name' is missing$"):
        parse(Source(Path("run.yaml"), {}, {}), Run)
