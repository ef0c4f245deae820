"""The report in headless Chromium: no error, no request, filters, keys, hostile texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from chromium import PROGRAM, Page, chromium
from report_toys import STEPS, reply, score

from cai import store
from cai.evals.headline_changes import comparisons
from cai.evals.refusal import refusal_scores
from cai.records import EvalReply, Kind, Preference, Prompt, Revision, Round, Row, chat_of
from cai.report.html import write_report

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium on this machine")

STRIKE = "document.title='struck'"
HOSTILE = [
    template.replace("X", STRIKE)
    for template in (
        "<script>X</script>",
        "</script><script>X</script>",
        "</SCRIPT ><script>X</script>",
        "<!--<script>X</script>-->",
        "--><script>X</script><!--",
        "<!-- <script>",
        "]]><script>X</script>",
        "</style><script>X</script>",
        "</title><script>X</script>",
        "</textarea><script>X</script>",
        "</div></main><script>X</script>",
        "<img src=x onerror=X>",
        '<img src="http://evil.example/x">',
        "<svg onload=X>",
        "<svg><script>X</script></svg>",
        "</svg><img src=x onerror=X>",
        "<body onload=X>",
        "<iframe src=javascript:X>",
        '<iframe srcdoc="<script>parent.X</script>">',
        "<a href=javascript:X>click</a>",
        "<details open ontoggle=X>",
        "<input autofocus onfocus=X>",
        "<video><source onerror=X>",
        "<object data=javascript:X>",
        "<embed src=javascript:X>",
        "<link rel=stylesheet href=http://evil.example/x.css>",
        "<style>@import 'http://evil.example/x.css';</style>",
        "<meta http-equiv=refresh content=0;url=http://evil.example/>",
        "<base href=http://evil.example/>",
        "<form action=http://evil.example/><button>x</button></form>",
        "<math><mtext></table><img src=x onerror=X>",
        "<noscript><p title='</noscript><img src=x onerror=X>'>",
        '" onmouseover=X x="',
        "' autofocus onfocus=X '",
        '"}];X;//',
        "\\u003cscript\\u003eX\\u003c/script\\u003e",
        "&lt;script&gt;X&lt;/script&gt;",
        "{{ X }}${X}{% X %}`X`",
        "\u2028X\u2029",
        "\x00<scr\x00ipt>X</script>",
    )
]


def write(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row.line() + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Twenty-five benign prompts and two others; the policy refuses the first benign one."""
    rows: list[EvalReply] = []
    for number in range(25):
        for subject in ("base", "policy"):
            refuses = number == 0 and subject == "policy"
            style, degree = (
                ("undesired_refusal", "full_refusal")
                if refuses
                else ("safe_answer", "full_compliance")
            )
            text = f"Reply {number} of {subject}"
            rows.append(
                reply(f"b{number:02}", subject, "benign", category="cooking", response=text,
                      style=style, degree=degree, correct=not refuses)
            )  # fmt: skip
    for subject in ("base", "policy"):
        rows.append(reply("d", subject, "disallowed", category="weapons", response="Ünique TEXT"))
        rows.append(reply("u", subject, None, response="of no kind"))
    write(tmp_path / "70-replies.jsonl", rows)
    return write_report(tmp_path)


def shown(page: Page) -> list[str]:
    titles = "[...document.querySelectorAll('#browser-results h3')].map((h) => h.textContent)"
    return list(page.evaluate(titles))


def choose(page: Page, **values: str | bool) -> str:
    """Set fields of the form; the line that says how many prompts fit."""
    script = ["const form = document.getElementById('browser-form')"]
    for name, value in values.items():
        field = f"form.elements['{name.rstrip('_')}']"
        key = "checked" if isinstance(value, bool) else "value"
        script.append(f"{field}.{key} = {json.dumps(value)}")
        script.append(f"{field}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    wait = "new Promise((done) => setTimeout(done, 250))"
    page.evaluate(f"(() => {{ {'; '.join(script)} }})()")
    page.evaluate(wait)
    return str(page.evaluate("document.getElementById('browser-count').textContent"))


def opened(page: Page, path: Path) -> None:
    page.problems.clear()
    page.requests.clear()
    page.set_view(1280)
    page.open(path)


def test_filters_choose_prompts(page: Page, report: Path) -> None:
    opened(page, report)
    assert choose(page) == "27 prompts of 27"
    assert len(shown(page)) == 20
    assert page.evaluate("document.getElementById('first-replies').hidden")
    assert choose(page, kind="disallowed") == "1 prompt of 27"
    assert shown(page) == ["disallowed · weapons"]
    assert choose(page, kind="unknown kind") == "1 prompt of 27"
    assert choose(page, kind="", category="cooking") == "25 prompts of 27"
    assert choose(page, differing=True) == "1 prompt of 27"
    assert choose(page, differing=False, category="", text=" üNIQUE text ") == "1 prompt of 27"
    assert choose(page, text="nowhere") == "No prompt fits. Change a filter, or reset them."
    # the policy is the one that is incorrect, and model and grade are about the same reply
    assert choose(page, text="", subject="1", verdict="incorrect") == "1 prompt of 27"
    assert choose(page, subject="0", verdict="incorrect").startswith("No prompt fits")
    assert choose(page, subject="", verdict="", style="undesired_refusal") == "1 prompt of 27"
    page.evaluate("document.querySelector('#browser-form [type=reset]').click()")
    assert choose(page) == "27 prompts of 27"
    assert (page.problems, page.requests) == ([], [report.as_uri()])


def test_harmful_texts_are_folded_until_they_are_opened(page: Page, report: Path) -> None:
    opened(page, report)
    choose(page, kind="disallowed")
    is_open = "document.querySelector('#browser-results details').open"
    assert page.evaluate(is_open) is False
    page.evaluate("document.getElementById('browser-unfold').click()")
    assert page.evaluate(is_open) is True
    choose(page, kind="unknown kind")
    assert page.evaluate(is_open) is True, "of prompts that are filtered later, too"
    assert page.evaluate("document.querySelectorAll('#first-replies details[open]').length") == 0


def test_keys_reach_every_control(page: Page, report: Path) -> None:
    """Tab goes through the form in its order with a visible focus; Enter filters and shows more."""
    opened(page, report)
    page.evaluate("document.querySelector('#browser-form select').focus()")
    reached = []
    for _ in range(8):
        reached.append(page.evaluate("document.activeElement.name || document.activeElement.id"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", reached
        page.press("Tab")
    fields = ["kind", "category", "subject", "verdict", "style", "text", "differing"]
    assert [name for name in reached if name != "class"] == [*fields, "browser-unfold"][
        : len(reached) - reached.count("class")
    ]
    page.evaluate("document.querySelector('[type=search]').value = 'reply 3 of'")
    page.evaluate("document.querySelector('[type=search]').focus()")
    page.press("Enter", "\r")
    assert page.evaluate("document.getElementById('browser-count').textContent") == "1 prompt of 27"
    page.evaluate("document.querySelector('#browser-form [type=reset]').click()")
    choose(page)
    page.evaluate("document.getElementById('browser-more').focus()")
    page.press("Enter", "\r")
    assert len(shown(page)) == 27
    assert page.evaluate("document.activeElement.tagName") == "ARTICLE", "focus is not lost"
    assert page.problems == []


def test_the_page_fits_a_phone_and_names_its_parts(page: Page, report: Path) -> None:
    opened(page, report)
    page.set_view(390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    unnamed = page.evaluate(
        "[...document.querySelectorAll('select, input, button, .scroll, [role=img]')].filter((e) =>"
        " !e.labels?.length && !e.ariaLabel && !e.textContent).length"
    )
    assert unnamed == 0
    assert page.evaluate("document.getElementById('browser-count').getAttribute('aria-live')")
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => h.tagName[1])")
    steps = pairwise(map(int, levels))
    assert all(after <= before + 1 for before, after in steps)


def test_without_script_the_first_examples_are_there(page: Page, report: Path) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        opened(page, report)
        assert page.evaluate("document.getElementById('browser').hidden")
        assert page.evaluate("document.querySelectorAll('#first-replies article').length") == 5
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)


def hostile_run(folder: Path) -> Path:
    """Every text of a run that others decide is each of the hostile ones."""
    kinds: tuple[Kind, ...] = ("benign", "disallowed")
    replies = [
        reply(f"{index}", subject, kinds[index % 2], response=text, category=text)
        .model_copy(update={"chat": chat_of(("user", text))})
        for index, text in enumerate(HOSTILE)
        for subject in ("base", HOSTILE[index % 3])
    ]  # fmt: skip
    graded = replies[0].grade.model_copy(update={"class_": HOSTILE[1], "unscored": HOSTILE[0]})
    replies[0] = replies[0].model_copy(update={"grade": graded})
    write(folder / "70-replies.jsonl", replies)
    strange = [score(text, 0.5, text) for text in HOSTILE]
    strange += [score(f"{text}.change", 0.5, text) for text in HOSTILE]
    write(folder / "70-scores.jsonl", [*refusal_scores(replies), *comparisons(replies), *strange])
    prompts = [Prompt(chat=chat_of(("user", text)), kind="benign") for text in HOSTILE]
    write(folder / "00-prompts.jsonl", prompts)
    revisions = [
        Revision(source=prompt.id, chat=prompt.chat, initial=text, final=text, chosen_round=0,
                 rounds=(Round(principle=text, critique=text, revision=text + " more"),))
        for prompt, text in zip(prompts, HOSTILE, strict=True)
    ]  # fmt: skip
    write(folder / "10-revisions.jsonl", revisions)
    labels = [Preference(source="a", p_first=None, unscored=text) for text in HOSTILE]
    write(folder / "40-preferences.jsonl", labels)
    (folder / "60-policy").mkdir()
    step = {key.replace("pm", HOSTILE[0]): value for key, value in STEPS[0].items()}
    step |= {f"reward.{text}": 0.5 for text in HOSTILE}
    (folder / "60-policy" / "metrics.jsonl").write_text(json.dumps(step) + "\n")
    settings = {"constitution": " ".join(HOSTILE), "model": HOSTILE[0], f"input {HOSTILE[1]}": "x"}
    store.begin_artifact(folder / "10-revisions.jsonl", "revise", settings)
    store.finish_artifact(folder / "10-revisions.jsonl", rows=1)
    return folder


def test_forty_hostile_texts_stay_text(page: Page, tmp_path: Path) -> None:
    """As prompts, replies, names of run, constitution, model, metric, class: nothing runs."""
    assert len(HOSTILE) == 40
    name = "<img src=x onerror=document.title='struck'> &amp; run"
    path = write_report(hostile_run(tmp_path / name))
    opened(page, path)
    page.evaluate("document.getElementById('browser-unfold').click()")
    for _ in range(3):
        page.evaluate("document.getElementById('browser-more').click()")
    assert page.evaluate("document.querySelectorAll('#browser-results article').length") == 40
    assert page.evaluate("document.title") == f"{name} – cai report"
    assert page.evaluate("document.querySelector('h1').textContent") == name
    elements = "iframe, img, object, embed, link, base, video, meta[http-equiv=refresh], math"
    assert page.evaluate(f"document.querySelectorAll('{elements}').length") == 0
    assert page.evaluate("document.querySelectorAll('script').length") == 2
    assert page.evaluate(
        "[...document.querySelectorAll('*')].filter((e) => e.getAttributeNames()"
        ".some((name) => name.startsWith('on'))).length"
    ) == 0  # fmt: skip
    texts = page.evaluate(
        "[...document.querySelectorAll('#browser-results .turn .text')].map((e) => e.textContent)"
    )
    assert sorted(texts) == sorted(text.replace("\x00", "\ufffd") for text in HOSTILE)
    assert (page.problems, page.requests) == ([], [path.as_uri()])
