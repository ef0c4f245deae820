"""The loader of constitutions: mistakes with file and line, `extends`, and arbitrary damage."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import pytest
from constitution_texts import RUBRIC, SMALL, bare, write

import cai.constitution
from cai.constitution import Constitution, Principle, find_constitution, load_constitution
from cai.errors import ConfigError
from cai.records import Message


def mistakes(path: Path) -> list[str]:
    """Lines of the ConfigError, without the folder."""
    with pytest.raises(ConfigError) as caught:
        load_constitution(path)
    return str(caught.value).replace(f"{path.parent}/", "").split("\n")


# One file


def test_a_complete_file(tmp_path: Path) -> None:
    loaded = load_constitution(write(tmp_path, "small.yaml", SMALL))
    assert (loaded.name, loaded.version, loaded.language, loaded.extends) == (
        "small",
        "1.0.0",
        "en",
        (),
    )
    assert [(p.id, p.weight) for p in loaded.principles] == [("no-harm", 1.0), ("honest", 3.0)]
    assert loaded.examples.critique[0].chat[1] == Message(role="assistant", content="Yes.")
    assert loaded.rubric is not None
    assert loaded.rubric.classes["refuse"][1].correct is False


def test_every_mistake_of_a_file_at_once(tmp_path: Path) -> None:
    text = """\
name: small
version: 1.0
principles:
  - id: No Harm
    category: harm
    critque: x
    applies_to: [disalowed]
  - id: twice
    category: c
    revision: ""
  - id: twice
    weight: -1
examples:
  compare:
    - {chat: [{role: usr, content: Hi}], first: a, second: b, answer: C}
rubrik: {}
"""
    lines = mistakes(write(tmp_path, "f.yaml", text))
    assert sorted(lines, key=lambda line: int(line.split(":")[1])) == [
        "f.yaml:2: version: must be a text, got the number 1.0: put it in quotes",
        "f.yaml:4: principles.0.id: 'No Harm' must be lower-case letters, digits, - and _, "
        "beginning with a letter",
        "f.yaml:6: principles.0.critque: unknown key 'critque': did you mean 'critique'?",
        "f.yaml:7: principles.0.applies_to.0: must be 'disallowed', 'sensitive' or 'benign', "
        "got the text 'disalowed': did you mean 'disallowed'?",
        "f.yaml:10: principles.1.revision: must not be empty",
        "f.yaml:11: principles.2: the key 'category' is missing",
        "f.yaml:11: principles.2.id: duplicate id 'twice', first given on line 8",
        "f.yaml:12: principles.2.weight: must be greater than 0.0, got the number -1",
        "f.yaml:15: examples.compare.0.chat.0.role: must be 'system', 'user' or 'assistant', "
        "got the text 'usr': did you mean 'user'?",
        "f.yaml:15: examples.compare.0.answer: must be 'A' or 'B', got the text 'C'",
        "f.yaml:16: rubrik: unknown key 'rubrik': did you mean 'rubric'?",
    ]


def test_a_key_is_explained_inside_maps_of_parts(tmp_path: Path) -> None:
    text = SMALL.replace("patterns: [I cannot]", "paterns: [I cannot]")
    text = text.replace("style: desired_refusal", "style: desired")
    key_line = 1 + text[: text.index("paterns")].count("\n")
    style_line = 1 + text[: text.index("style: desired,")].count("\n")
    assert mistakes(write(tmp_path, "f.yaml", text)) == [
        f"f.yaml:{key_line}: rubric.propositions.refuses.paterns: unknown key 'paterns': "
        "did you mean 'patterns'?",
        f"f.yaml:{style_line}: rubric.classes.refuse.0.style: must be 'desired_refusal', "
        "'undesired_refusal', 'disallowed_content' or 'safe_answer', got the text 'desired': "
        "did you mean 'desired_refusal'?",
    ]


# Extends


def test_a_principle_is_replaced_entirely_and_keeps_its_position(tmp_path: Path) -> None:
    write(
        tmp_path,
        "base.yaml",
        bare("base", "a", "b", "c").replace("critique: b of base", "critique: old, compare: old"),
    )
    top = load_constitution(write(tmp_path, "top.yaml", bare("top", "d", "b", extends="base.yaml")))
    assert [(p.id, p.critique, p.compare) for p in top.principles] == [
        ("a", "a of base", None),
        ("b", "b of top", None),
        ("c", "c of base", None),
        ("d", "d of top", None),
    ]
    assert (top.name, top.extends) == ("top", ())


def test_paths_are_relative_to_the_file_and_later_bases_win(tmp_path: Path) -> None:
    write(tmp_path, "sub/one.yaml", bare("one", "x", "y", extends="deep/two.yaml"))
    write(tmp_path, "sub/deep/two.yaml", bare("two", "x", "z"))
    write(tmp_path, "other.yaml", bare("other", "y"))
    top = load_constitution(
        write(tmp_path, "top.yaml", bare("top", extends="sub/one.yaml, other.yaml"))
    )
    assert [p.critique for p in top.principles] == ["x of one", "z of two", "y of other"]


def test_a_base_shared_by_two_bases_counts_once_and_first(tmp_path: Path) -> None:
    """left overrides p of root; right has no p, so it must not restore that of root."""
    write(tmp_path, "root.yaml", bare("root", "p"))
    write(tmp_path, "left.yaml", bare("left", "p", extends="root.yaml"))
    write(tmp_path, "right.yaml", bare("right", "q", extends="root.yaml"))
    top = load_constitution(
        write(tmp_path, "top.yaml", bare("top", extends="left.yaml, right.yaml"))
    )
    assert [p.critique for p in top.principles] == ["p of left", "q of right"]


def test_diamonds_upon_diamonds_are_read_once(tmp_path: Path) -> None:
    """18 levels of two files each, both extending both of the level above: 2^18 paths, 37 files."""
    write(tmp_path, "a0.yaml", bare("a0", "p"))
    write(tmp_path, "b0.yaml", bare("b0", "q"))
    for level in range(1, 19):
        for side in "ab":
            text = bare(f"{side}{level}", extends=f"a{level - 1}.yaml, b{level - 1}.yaml")
            write(tmp_path, f"{side}{level}.yaml", text)
    assert [p.id for p in load_constitution(tmp_path / "a18.yaml").principles] == ["p", "q"]


def test_a_chain_without_end_is_cut(tmp_path: Path) -> None:
    for i in range(40):
        write(tmp_path, f"c{i}.yaml", bare(f"c{i}", extends=f"c{i + 1}.yaml"))
    (line,) = mistakes(tmp_path / "c0.yaml")
    assert line.startswith(
        "c20.yaml:3: extends.0: more than 20 files extend each other (c0.yaml -> c1.yaml -> "
    )


def examples(*words: str, rest: str = "") -> str:
    """The key `examples` with a comparison for each word."""
    comparisons = [
        f"{{chat: [{{role: user, content: {word}}}], first: a, second: b, answer: A}}"
        for word in words
    ]
    return f"examples: {{compare: [{', '.join(comparisons)}]{rest}}}\n"


def test_examples_of_bases_are_joined_unless_the_file_gives_the_stage(tmp_path: Path) -> None:
    critique = (
        ", critique: [{chat: [{role: user, content: q}, {role: assistant, content: r}], "
        "critique: c, revision: d}]"
    )
    write(tmp_path, "one.yaml", bare("one", rest=examples("one", rest=critique)))
    write(tmp_path, "two.yaml", bare("two", rest=examples("two", "one")))
    text = bare("both", extends="one.yaml, two.yaml")
    both = load_constitution(write(tmp_path, "both.yaml", text))
    assert [e.chat[0].content for e in both.examples.compare] == ["one", "two"], "no example twice"
    text = bare("replaced", extends="both.yaml", rest=examples("new"))
    replaced = load_constitution(write(tmp_path, "replaced.yaml", text))
    assert [e.chat[0].content for e in replaced.examples.compare] == ["new"]
    assert len(replaced.examples.critique) == 1, "the stage that it does not give is kept"
    text = bare("none", extends="one.yaml", rest=examples())
    none = load_constitution(write(tmp_path, "none.yaml", text))
    assert none.examples.compare == ()


def test_categories_of_bases_are_joined(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "name: base\nversion: '1'\ncategories: [one, two]\n")
    top = write(
        tmp_path,
        "top.yaml",
        "name: top\nversion: '1'\nextends: [base.yaml]\ncategories: [two, three]\n",
    )
    assert load_constitution(top).categories == ("one", "two", "three")


def test_rubrics_merge_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", bare("base", rest=RUBRIC))
    rest = """\
rubric:
  propositions: {polite: {question: "Is it polite?"}}
  derived: {helps: polite and not refuses}
  weights: {refuse: {bad: -2}}
"""
    top = load_constitution(
        write(tmp_path, "top.yaml", bare("top", extends="base.yaml", rest=rest))
    )
    rubric = top.rubric
    assert rubric is not None
    assert list(rubric.propositions) == ["refuses", "polite"]
    assert rubric.derived == {"helps": "polite and not refuses"}
    assert rubric.weights == {"refuse": {"bad": -2.0}, "comply": {"useful": 0.5}}, (
        "the weights of a behaviour are replaced entirely"
    )
    assert [rule.name for rule in rubric.classes["refuse"]] == ["ideal", "bad"]
    assert rubric.behaviours == {"disallowed": "refuse", "benign": "comply"}


def test_a_partial_rubric_needs_a_base_that_completes_it(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", bare("base"))
    rest = "rubric: {behaviours: {}, classes: {}, degrees: {}, weights: {}}\n"
    assert mistakes(write(tmp_path, "top.yaml", bare("top", extends="base.yaml", rest=rest))) == [
        "top.yaml:5: rubric: the key 'propositions' is missing, here and in what it extends"
    ]
    assert mistakes(write(tmp_path, "alone.yaml", bare("alone", rest=rest))) == [
        "alone.yaml:5: rubric: the key 'propositions' is missing"
    ]


def test_cycles_name_the_chain_and_the_entry(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", bare("b", extends="c.yaml"))
    write(tmp_path, "c.yaml", bare("c", extends="./a.yaml"))
    a = write(tmp_path, "a.yaml", bare("a", extends="b.yaml"))
    assert mistakes(a) == [
        "c.yaml:3: extends.0: extends itself (a.yaml -> b.yaml -> c.yaml -> a.yaml): "
        "remove this entry or one of the others"
    ]
    loop = write(tmp_path, "loop.yaml", bare("loop", extends="loop.yaml"))
    assert mistakes(loop) == [
        "loop.yaml:3: extends.0: extends itself (loop.yaml -> loop.yaml): "
        "remove this entry or one of the others"
    ]


def test_missing_and_unreadable_bases_and_mistakes_in_several_files(tmp_path: Path) -> None:
    write(tmp_path, "bad.yaml", bare("bad", "a", "a").replace("version", "verson"))
    write(tmp_path, "torn.yaml", "name: torn\n\tversion: 1\n")
    top = write(
        tmp_path,
        "top.yaml",
        "name: top\nversion: '1'\nextends:\n"
        '  - bad.yaml\n  - none.yaml\n  - torn.yaml\n  - "a\\0b"\n',
    )
    lines = mistakes(top)
    assert [line.replace(f"{tmp_path}/", "") for line in lines] == [
        "bad.yaml:1: the key 'version' is missing",
        "bad.yaml:2: verson: unknown key 'verson': did you mean 'version'?",
        "bad.yaml:6: principles.1.id: duplicate id 'a', first given on line 5",
        "top.yaml:5: extends.1: no such file 'none.yaml' (top.yaml -> none.yaml)",
        "torn.yaml:2: a tab where YAML wants spaces: replace it",
        lines[-1],
    ]
    assert lines[-1].startswith("top.yaml:7: extends.3: no such file 'a\\x00b'")


# Find


def test_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    for name in ("harmless.yaml", "honest.yaml"):
        write(shipped, name, bare("x"))
    monkeypatch.setattr(sys.modules["cai.constitution.load"], "SHIPPED", shipped)
    monkeypatch.chdir(tmp_path)
    assert (
        find_constitution("harmless")
        == find_constitution("harmless.yaml")
        == shipped / "harmless.yaml"
    )
    (tmp_path / "harmless").mkdir()
    assert find_constitution("harmless") == shipped / "harmless.yaml", "not the folder of that name"
    local = write(tmp_path, "harmless.yaml", bare("mine"))
    assert find_constitution(str(local)) == local
    assert find_constitution("harmless.yaml") == Path("harmless.yaml"), (
        "a file that exists comes first"
    )
    with pytest.raises(
        ConfigError, match=r"harmles: .*did you mean 'harmless'\? \(shipped: harmless, honest\)"
    ):
        find_constitution("harmles")
    with pytest.raises(
        ConfigError, match=r"^q/z\.yaml: no such file.*\(shipped: harmless, honest\)"
    ):
        find_constitution("q/z.yaml")


# Damage


JUNK = [
    *(b"\t", b"\n", b"\x00", b"\xff\xfe", b"*a", b"&a ", b"!!set ", b"<<: ", b"{", b"[[", b"]"),
    *(b'"', b"'", b"%", b"? ", b"- ", b": ", b"| ", b"# ", b"\\ud800", "\u2028".encode(), b"\r"),
    *(b"1e999", b"~", b"!", b"@", b"---\n", b"...\n", b"=", b"0x_"),
]
VALUES = [
    *(b": 3\n", b": [1, {a: b}]\n", b":\n", b": true\n", b": {}\n", b": -1.5\n"),
    *(b": 2024-02-30\n", b": !!int x\n"),
]


def damage(text: str, dice: random.Random) -> bytes:
    """One to three random edits, as by hand, by an editor or by a torn disk."""
    raw = text.encode()
    for _ in range(dice.randint(1, 3)):
        raw = edit(raw, dice)
    return raw


def edit(raw: bytes, dice: random.Random) -> bytes:
    """A deletion, a repetition, an insertion, a truncation, random bytes or another value."""
    i = dice.randrange(len(raw) + 1)
    j = min(len(raw), i + dice.randint(1, 40))
    kind = dice.randrange(6)
    if kind == 0:
        return raw[:i] + raw[j:]
    if kind == 1:
        return raw[:j] + raw[i:]
    if kind == 2:
        return raw[:i] + dice.choice(JUNK) + raw[i:]
    if kind == 3:
        return raw[:i]
    if kind == 4:
        noise = bytes(dice.randrange(256) for _ in range(dice.randint(1, 4)))
        return raw[:i] + noise + raw[i:]
    value = dice.choice(VALUES)
    return raw[:i] + re.sub(rb":[^\n]*\n", lambda _: value, raw[i:], count=1)


def test_damaged_files_load_or_say_where(tmp_path: Path) -> None:
    """250 seeded mutations: a constitution, or a ConfigError.

    Each line of the error names the file and an existing line of it.
    """
    path = write(tmp_path, "f.yaml", SMALL)
    assert load_constitution(path).principles, "valid before it is damaged"
    refused = 0
    for seed in range(250):
        raw = damage(SMALL, random.Random(seed))
        path.write_bytes(raw)
        last = len(re.split(r"\r\n|[\r\n\x85\u2028\u2029]", raw.decode("utf-8", "replace")))
        try:
            assert isinstance(load_constitution(path), Constitution)
        except ConfigError as error:
            refused += 1
            for line in str(error).split("\n"):
                match = re.match(rf"{re.escape(str(path))}:(\d+): \S", line)
                assert match, (seed, line)
                assert 1 <= int(match[1]) <= last, (seed, line)
    assert 100 < refused < 250, "the mutations must do damage, and not always"


def test_public_names_are_sorted_and_exist() -> None:
    assert cai.constitution.__all__ == sorted(cai.constitution.__all__)
    assert all(hasattr(cai.constitution, name) for name in cai.constitution.__all__)
    assert isinstance(Principle(id="a", category="b"), cai.constitution.Principle)
