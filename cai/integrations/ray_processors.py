"""Processors of `ray.data.llm`, with the functions before and after them.

A processor's rows are requests, each with the digest that names it, and leave it as answers or as
errors. Ray distributes them, and repeats what a lost worker had. Ray is not imported before a
processor is configured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cai.errors import UsageError, blame
from cai.integrations.ray_calls import EndpointCalls
from cai.lm.chat_completions import thinking_fields
from cai.lm.http import HttpConfig

Row = dict[str, Any]
RowFunction = Callable[[Row], Row]
ROWS_PER_TASK = 256
"""Requests that a worker takes at a time."""
HTTP_BATCH = 64
"""Requests that a worker of the HTTP stage starts together."""
WAITING_WORKER_CPUS = 0
"""Of a worker that waits for an endpoint or a deployment. With a share of a CPU, such workers would
keep a cluster's last ones from the tasks before them, and nothing would ever start."""
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
    if error := row.get("error"):
        # a request that the server refuses: Ray passes its reason on as an answer
        reason = error.get("message") if isinstance(error, Mapping) else error
        return {"id": row["id"], "answer": None, "error": str(reason)}
    answer = {name: row[name] for name in ("choices", "usage") if row.get(name) is not None}
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
    waiting = (llm.HttpRequestProcessorConfig, llm.ServeDeploymentProcessorConfig)
    if isinstance(config, waiting):
        for name in processor.list_stage_names():
            stage = processor.get_stage_by_name(name)
            stage.map_batches_kwargs["num_cpus"] = WAITING_WORKER_CPUS
    rows = ray.data.read_parquet([str(path) for path in requests])
    # files are read together, up to 128 MiB: one worker would have them all
    rows = rows.repartition(target_num_rows_per_block=ROWS_PER_TASK)
    processor(rows).map(outcome).write_parquet(str(answers))
