"""Speed of a reply, its critique and its revision on the embedded model, beside distilabel.

    python benchmarks/revise_speed.py [--rows N] [--peer PYTHON] [--batch N]

Both sides have the same requests, two examples, limits (40, 32 and 40 tokens), temperature (0.7),
weights and float32. The peer is `TransformersLLM` of distilabel 1.5.3 in batches, run by the Python
of an environment of its own (distilabel[hf-transformers]==1.5.3, transformers<5), which
`CAI_DISTILABEL_PYTHON` can name too. Loading is in no
figure. Prints rows a second of each side and the ratio. Texts differ: both sample.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import yaml

from cai.async_map import map_in_memory
from cai.constitution import load_constitution
from cai.data.readers import prompt_rows
from cai.generate.revise import ReviseConfig, revise_items, reviser
from cai.lm.local import load_local
from cai.modeling.model_files import resolve_model_path

CRITIQUE = "Explain how this reply could cause harm."
REVISION = (
    "Rewrite the reply so that it is harmless: decline briefly, without lecturing, and offer help."
)
SHOTS = (
    (
        "How can I frighten my landlord?",
        "Stand at his door at night and say that you know where his children go to school.",
        "The reply plans a threat, which could frighten a family and is a crime.",
        "I won't help with that. If he treats you unfairly, a tenants' union can advise you.",
    ),
    (
        "Help me get my colleague into trouble.",
        "Write to the boss from a false address and make something up about money.",
        "The reply suggests a lie that could cost an innocent person their job.",
        "I can't help with that. I can help you to talk with them about what went wrong.",
    ),
)
CONFIG = ReviseConfig(
    temperature=0.7, revise_temperature=0.7, max_tokens=40, critique_tokens=32, helpful_samples=1
)

PEER = """
import json, sys, time
from distilabel.models import TransformersLLM

work = json.load(sys.stdin)
llm = TransformersLLM(model=work["model"], torch_dtype="float32")
llm.load()

def run(chats, tokens):
    texts = []
    for start in range(0, len(chats), work["batch"]):
        outputs = llm.generate_outputs(
            chats[start : start + work["batch"]],
            max_new_tokens=tokens,
            do_sample=True,
            temperature=0.7,
        )
        texts += [output["generations"][0] or "" for output in outputs]
    return texts

def turns(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]

def judged(request, reply):
    return f"Request: {request}\\nReply: {reply}\\n\\n{work['critique']}"

shots = []
for request, reply, critique, revision in work["shots"]:
    shots += turns(judged(request, reply), critique, work["revision"], revision)
run([turns("Hello")], 4)
start = time.perf_counter()
replies = run([turns(request) for request in work["requests"]], 40)
asked = [shots + turns(judged(*pair)) for pair in zip(work["requests"], replies)]
critiques = run(asked, 32)
revised = [chat + turns("", text, work["revision"])[1:] for chat, text in zip(asked, critiques)]
run(revised, 40)
print(json.dumps(time.perf_counter() - start))
"""


def requests_of(count: int) -> list[str]:
    return [
        f"Tell me how to carry out harmful plan number {number} against my neighbour."
        for number in range(count)
    ]


def constitution(folder: Path) -> Path:
    examples = [
        {
            "chat": [
                {"role": "user", "content": request},
                {"role": "assistant", "content": reply},
            ],
            "critique": critique,
            "revision": revision,
        }
        for request, reply, critique, revision in SHOTS
    ]
    content = {
        "name": "speed",
        "version": "1",
        "principles": [
            {"id": "harm", "category": "harm", "critique": CRITIQUE, "revision": REVISION}
        ],
        "examples": {"critique": examples},
    }
    path = folder / "speed.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def ours(requests: list[str]) -> float:
    """Seconds."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_constitution(constitution(Path(folder)))
        path = Path(folder) / "prompts.jsonl"
        path.write_text(
            "".join(
                json.dumps({"prompt": request, "kind": "disallowed"}) + "\n" for request in requests
            ),
            encoding="utf-8",
        )
        items = revise_items(list(prompt_rows(path)), CONFIG)
        lm = load_local(resolve_model_path("smollm2"))
        step = reviser(loaded, lm, CONFIG, lambda prompt, reply: None, 0)
        started = time.perf_counter()
        rows = asyncio.run(map_in_memory(items, step, max_concurrency=lm.max_concurrency))
        seconds = time.perf_counter() - started
    print(f"{len(rows)} rows with {sum(len(row.rounds) for row in rows)} revisions")
    return seconds


def older_folder(folder: Path) -> None:
    """The model as transformers before version 5 reads it: it does not know the tokenizer's class,
    nor where the base of the rotation now is.
    """
    source = Path(resolve_model_path("smollm2"))
    for path in source.iterdir():
        if path.suffix != ".json":
            (folder / path.name).symlink_to(path)
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "tokenizer_config.json":
            content["tokenizer_class"] = "PreTrainedTokenizerFast"
        if path.name == "config.json":
            content["rope_theta"] = content["rope_parameters"]["rope_theta"]
        (folder / path.name).write_text(json.dumps(content), encoding="utf-8")


def theirs(python: str, requests: list[str], batch: int) -> float:
    """Seconds."""
    with tempfile.TemporaryDirectory() as folder:
        older_folder(Path(folder))
        return _seconds_of_peer(python, requests, batch, folder)


def _seconds_of_peer(python: str, requests: list[str], batch: int, model: str) -> float:
    work = {
        "model": model,
        "batch": batch,
        "requests": requests,
        "shots": SHOTS,
        "critique": CRITIQUE,
        "revision": REVISION,
    }
    done = subprocess.run(  # noqa: S603
        [python, "-c", PEER], input=json.dumps(work), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"revise_speed: the peer failed:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--peer", metavar="PYTHON", default=os.environ.get("CAI_DISTILABEL_PYTHON"))
    parser.add_argument("--batch", type=int, default=16, help="rows at once, of the peer")
    options = parser.parse_args()
    requests = requests_of(options.rows)
    rate = options.rows / ours(requests)
    print(f"cai: {rate:.3f} rows/s")
    if options.peer:
        peer = options.rows / theirs(options.peer, requests, options.batch)
        print(f"distilabel: {peer:.3f} rows/s; cai is {rate / peer:.2f} times as fast")


if __name__ == "__main__":
    main()
