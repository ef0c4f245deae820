"""Waves of a stage's requests through Ray Data, answered by a processor of `ray.data.llm`.

Requests are rows of Parquet files, each with the digest that names it. Here are the functions
before and after a processor, and the loop over waves. Ray distributes the rows, and repeats what a
lost worker had. Answers stay in the folder until a pass has read them, so that a wave which was cut
is continued: what has an answer is not requested again. Ray is not imported before the first wave.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cai.errors import JobError, UsageError, blame
from cai.files import write_errors
from cai.integrations.ray_calls import EndpointCalls, read_received
from cai.lm.batch import Batch
from cai.lm.batch_files import AnswerFiles
from cai.lm.chat_completions import thinking_fields
from cai.lm.http import HttpConfig
from cai.locks import locked

Row = dict[str, Any]
RowFunction = Callable[[Row], Row]
ROWS_PER_FILE = 5000
"""Requests of a Parquet file."""
ROWS_PER_TASK = 256
"""Requests that a worker takes at a time, and that are repeated if it is lost."""
HTTP_BATCH = 64
"""Requests that a worker of the HTTP stage starts together."""
HTTP_WORKER_CPUS = 0
"""Such a worker waits. With a share of a CPU it would keep a node's last one from the tasks before
it, and nothing would ever start."""
ERROR = "__inference_error__"
"""The column of rows that failed: Ray keeps them from the function after the processor."""
DTYPE = "ChatCompletionRequest"
MAX_REASON = 200


# ---- before and after a processor ----


def http_request(row: Row) -> Row:
    """For `HttpRequestProcessorConfig` with `EndpointCalls` as its session factory."""
    # as text: a table would fill up the fields that requests do not have in common
    return {"payload": json.dumps({"id": row["id"], "body": json.loads(row["body"])})}


def http_answer(row: Row) -> Row:
    response = row["http_response"]
    return {"id": row["id"], "answer": response["answer"], "error": response["error"]}


def deployment_request(row: Row) -> Row:
    """For `ServeDeploymentProcessorConfig` with `request_from_json` among its types."""
    return {"method": "chat", "dtype": DTYPE, "request_kwargs": {"body": row["body"]}}


def request_from_json(request_type: Callable[..., Any]) -> type:
    """A type for Ray's `dtype_mapping` that makes a deployment's requests of JSON.

    A table would give it lists as arrays, and fields that other requests have. The numbers by which
    Ray names requests are left out: each worker counts from 0.
    """

    class Request:
        def __new__(cls, *, body: str, **names: object) -> Any:
            return request_type(**json.loads(body))

    return Request


def deployment_answer(row: Row) -> Row:
    answer = {name: row[name] for name in ("choices", "usage", "error") if row.get(name)}
    return {"id": row["id"], "answer": json.dumps(answer, default=_plain), "error": None}


def engine_request(row: Row) -> Row:
    """For `vLLMEngineProcessorConfig`."""
    body = json.loads(row["body"])
    params = {name: body.get(name) for name in ("max_tokens", "temperature", "seed", "stop")}
    params["logprobs"] = body.get("top_logprobs")
    return {"messages": body["messages"], "sampling_params": params}


def engine_answer(row: Row) -> Row:
    """The engine's output as a chat completion.

    Ray passes on no finish reason. A reply that is as long as it may be counts as cut: one that
    ended there by chance is lost, and none that was cut becomes training text.
    """
    prompt_tokens, tokens = int(row["num_input_tokens"]), int(row["num_generated_tokens"])
    is_cut = tokens >= json.loads(row["body"])["max_tokens"]
    choice: Row = {
        "message": {"role": "assistant", "content": row["generated_text"]},
        "finish_reason": "length" if is_cut else "stop",
    }
    if row.get("logprobs") is not None:
        steps = zip(row["generated_tokens"], row["logprobs"], strict=False)
        choice["logprobs"] = {"content": [_token_entry(token, step) for token, step in steps]}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
    answer = {"choices": [choice], "usage": usage}
    return {"id": row["id"], "answer": json.dumps(answer, default=_plain), "error": None}


def _token_entry(token: Any, step: Mapping[Any, Any]) -> Row:
    """One generated token with its alternatives, of token id -> log-probability and text."""
    entries = {
        str(id): {"token": entry["decoded_token"], "logprob": entry["logprob"]}
        for id, entry in step.items()
        if entry is not None
    }
    return {**entries.get(str(token), {}), "top_logprobs": list(entries.values())}


def _plain(value: Any) -> Any:
    """An array of NumPy as a list."""
    return value.tolist()


def outcome(row: Row) -> Row:
    """(id, answer, error), also of a row that failed."""
    error = row.get(ERROR) or row.get("error")
    if error:
        # of a failure in a deployment, Ray gives the traceback, which ends with the reason
        reason = (error.strip() or "an error").splitlines()[-1].strip()
        return {"id": row["id"], "answer": None, "error": reason[:MAX_REASON]}
    return {"id": row["id"], "answer": row["answer"], "error": None}


# ---- processors ----


def http_processor(spec: str, http: HttpConfig, workers: int, folder: Path) -> Any:
    """The configuration of a processor that calls an endpoint.

    Args:
        spec: `http://HOST:PORT/v1#MODEL`.
        folder: of the waves; see `answer_in_waves`.
    """
    llm = _ray_llm()
    return llm.HttpRequestProcessorConfig(
        url=spec.partition("#")[0],
        session_factory=EndpointCalls(spec, http, workers, folder.absolute() / "received"),
        batch_size=HTTP_BATCH,
        concurrency=(workers, workers),
        http_request_stage={"num_cpus": HTTP_WORKER_CPUS},
    )


def engine_processor(source: str, mode: Any, workers: int) -> Any:
    """The configuration of a processor with vLLM engines, one for each worker.

    Args:
        source: folder or hub id of the model.
        mode: whether the model is to think; see `cai.modeling.model_spec`.
    """
    llm = _ray_llm()
    variables = thinking_fields(mode).get("chat_template_kwargs", {})
    with blame(UsageError, "vLLM in Ray"):
        return llm.vLLMEngineProcessorConfig(
            model_source=source,
            concurrency=workers,
            should_continue_on_error=True,
            chat_template_stage={"enabled": True, "chat_template_kwargs": variables},
        )


def deployment_processor(name: str, workers: int, request_type: Any = None) -> Any:
    """The configuration of a processor that calls a deployment of Ray Serve.

    Args:
        name: `APPLICATION/DEPLOYMENT`.
        request_type: what the deployment's method `chat` takes; None: the type of `ray.serve.llm`.
    """
    llm = _ray_llm()
    application, slash, deployment = name.partition("/")
    if not slash:
        raise UsageError(f"--deployment {name}: write it as APPLICATION/DEPLOYMENT")
    if request_type is None:
        with blame(UsageError, "deployments need ray[llm]"):
            from ray.serve.llm.openai_api_models import ChatCompletionRequest

            request_type = ChatCompletionRequest
    return llm.ServeDeploymentProcessorConfig(
        deployment_name=deployment,
        app_name=application,
        dtype_mapping={DTYPE: request_from_json(request_type)},
        should_continue_on_error=True,
        concurrency=workers,
    )


def _ray_llm() -> Any:
    try:
        import ray.data.llm
    except ImportError as error:
        raise UsageError(f"Ray is not installed: pip install 'cai[ray]' ({error})") from None
    return ray.data.llm


def _functions(config: Any) -> tuple[RowFunction, RowFunction]:
    """What comes before and after a processor of this configuration."""
    llm = _ray_llm()
    if isinstance(config, llm.HttpRequestProcessorConfig):
        return http_request, http_answer
    if isinstance(config, llm.ServeDeploymentProcessorConfig):
        return deployment_request, deployment_answer
    return engine_request, engine_answer


def answer_wave(requests: Sequence[Path], answers: Path, config: Any) -> None:
    """Answer the requests of Parquet files into Parquet files, by Ray.

    Args:
        answers: folder for the files, with columns id, answer and error.
        config: of a processor of `ray.data.llm`.
    """
    llm = _ray_llm()
    import ray.data

    before, after = _functions(config)
    processor = llm.build_processor(config, preprocess=before, postprocess=after)
    rows = ray.data.read_parquet([str(path) for path in requests])
    # files are read together, up to 128 MiB: one worker would have them all
    rows = rows.repartition(target_num_rows_per_block=ROWS_PER_TASK)
    processor(rows).map(outcome).write_parquet(str(answers))


# ---- files of a wave ----


class RequestTables:
    """Writes requests into Parquet files of at most `ROWS_PER_FILE`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[Path] = []
        self._rows: list[Row] = []
        with write_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def add(self, name: str, body: Mapping[str, Any]) -> None:
        self._rows.append({"id": name, "body": json.dumps(body)})
        if len(self._rows) == ROWS_PER_FILE:
            self.close()

    def close(self) -> None:
        """Write the last file."""
        if not self._rows:
            return
        path = self.folder / f"{len(self.paths):06}.parquet"
        with write_errors(path):
            pq.write_table(pa.Table.from_pylist(self._rows), path)
        self.paths.append(path)
        self._rows = []


@dataclass
class AnswerTables:
    """The answers in a folder of waves: in tables, and in files of calls that a kill has cut."""

    positions: dict[str, tuple[Path, int]] = field(default_factory=dict)
    """Name of a request -> table and row, of the last wave that has an answer."""
    errors: dict[str, str] = field(default_factory=dict)
    """Name of a request -> why a wave had no answer."""
    received: AnswerFiles = field(default_factory=AnswerFiles)

    def find(self, name: str) -> bytes | None:
        """The body of an answer; None: there is none."""
        if name not in self.positions:
            return self.received.find(name)
        path, row = self.positions[name]
        answer: str = _read_table(path)["answer"][row].as_py()
        return answer.encode()


def read_answers(folder: Path) -> AnswerTables:
    """What the waves of a folder have left so far."""
    answers = AnswerTables(received=read_received(sorted((folder / "received").glob("*.jsonl"))))
    for path in sorted((folder / "answers").glob("*/*.parquet")):
        for number, (name, is_answer, error) in enumerate(_outcomes(path)):
            if is_answer:
                answers.positions[name] = (path, number)
            else:
                answers.errors[name] = error or "no answer"
    return answers


def _outcomes(path: Path) -> Iterator[tuple[str, bool, str | None]]:
    """(name, whether there is an answer, error) of each row; none of a file that is not whole."""
    try:
        table = _read_table(path)
    except (pa.ArrowException, KeyError, OSError):
        return
    columns = (table["id"], table["answer"].is_valid(), table["error"])
    yield from zip(*(column.to_pylist() for column in columns), strict=True)


@lru_cache(maxsize=4)  # a pass wants answers in about the order of the files
def _read_table(path: Path) -> pa.Table:
    schema = pa.schema([(name, pa.string()) for name in ("id", "answer", "error")])
    # other types are not Ray's: none is loaded that could run code
    return pq.ParquetFile(path).read(columns=schema.names).select(schema.names).cast(schema)


# ---- waves ----


def answer_in_waves(
    stage: str,
    folder: Path,
    config: Any,
    run_pass: Callable[[Batch], bool],
    notify: Callable[[str], None] = lambda line: None,
) -> None:
    """Passes over a stage and waves of its open requests, until it is finished.

    Args:
        folder: of the waves; on storage that all machines of a cluster see. It is removed at the
            end. After an interruption, the same call goes on from what lies there.
        config: of a processor of `ray.data.llm`, such as `http_processor` gives.
        run_pass: one pass, as `cai.pipeline.batches.run_batch`: whether the stage is finished.
        notify: called with a line on each wave.

    Raises:
        JobError: a wave brought nothing new, or Ray failed.
    """
    folder = folder.absolute()
    open_before: set[str] = set()
    with locked(folder):
        while True:
            answers = read_answers(folder)
            requests = RequestTables(folder / "requests")
            batch = Batch(stage, answers, requests)
            finished = run_pass(batch)
            requests.close()
            if finished:
                break
            if batch.open_ids == open_before:
                raise JobError(_open_line(stage, open_before, answers.errors))
            notify(f"{stage}: {len(batch.open_ids)} requests through Ray")
            wave = folder / "answers" / f"{_number_of_waves(folder):06}"
            with blame(JobError, f"{stage}: Ray failed; what is answered is kept"):
                answer_wave(requests.paths, wave, config)
            open_before = batch.open_ids
        shutil.rmtree(folder, ignore_errors=True)


def _number_of_waves(folder: Path) -> int:
    return len(list((folder / "answers").glob("*")))


def _open_line(stage: str, names: Collection[str], errors: Mapping[str, str]) -> str:
    reasons = Counter(errors.get(name, "no usable answer") for name in names)
    listed = "; ".join(f"{number} {reason}" for reason, number in reasons.most_common(3))
    return f"{stage}: {len(names)} requests have no answer: {listed}; run again to ask again"
