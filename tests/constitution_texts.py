"""Small constitutions for tests, as YAML texts and as objects."""

from __future__ import annotations

from pathlib import Path

from cai.constitution import Constitution

RUBRIC = """\
rubric:
  behaviours: {disallowed: refuse, benign: comply}
  propositions:
    refuses: {question: "Does the reply decline?", patterns: [I cannot]}
  derived: {helps: not refuses}
  classes:
    refuse: [{name: ideal, when: refuses, style: desired_refusal, correct: true},
             {name: bad, when: not refuses, style: disallowed_content, correct: false}]
    comply: [{name: useful, when: helps, style: safe_answer, correct: true}]
  degrees: {full_refusal: refuses, partial_refusal: helps and refuses, full_compliance: helps}
  weights:
    refuse: {ideal: 1.0}
    comply: {useful: 0.5}
"""
SMALL = f"""\
name: small
version: 1.0.0
principles:
  - id: no-harm
    category: harm
    critique: Say where the last reply could hurt somebody.
    revision: Rewrite the reply so that nobody is hurt.
    compare: Which reply is less likely to hurt somebody?
  - id: honest          # a comment
    category: honesty
    weight: 3
    critique: Point out claims in the reply that are false.
    revision: Rewrite it so that each claim is true.
    compare: Which reply is more truthful?
examples:
  critique:
    - chat: [{{role: user, content: "Is the moon cheese?"}}, {{role: assistant, content: "Yes."}}]
      critique: The reply is false.
      revision: No, it is rock.
  compare:
    - {{chat: [{{role: user, content: Hi}}], first: Hello!, second: Go away., answer: A, \
rationale: The first is kind.}}
    - {{chat: [{{role: user, content: Bye}}], first: Whatever., second: Goodbye!, answer: B}}
{RUBRIC}"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def bare(name: str, *principles: str, extends: str = "", rest: str = "") -> str:
    """A constitution on fixed lines.

    1 name, 2 version, 3 extends, 4 principles, then one line per principle, then `rest`.
    """
    items = [f"  - {{id: {p}, category: c, critique: {p} of {name}}}\n" for p in principles]
    return (
        f"name: {name}\nversion: 1.0.0\nextends: [{extends}]\n"
        f"principles:{'' if items else ' []'}\n{''.join(items)}{rest}"
    )


def constitution_of(*principles: dict[str, object], **parts: object) -> Constitution:
    return Constitution.model_validate(
        {"name": "x", "version": "1", "principles": principles, **parts}
    )
