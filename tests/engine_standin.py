"""A stand-in for vLLM's and SGLang's programs: their command lines, and a tiny OpenAI server.

STANDIN_MODE: `well`; `never` healthy; `dies` while it loads; `dies later`, after an answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODE = os.environ.get("STANDIN_MODE", "well")


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def main() -> None:
    key = option("--api-key") if "--api-key" in sys.argv else os.environ["VLLM_API_KEY"]
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    report = {"argv": sys.argv, "pid": os.getpid(), "worker": worker.pid}
    report["sees_cai_key"] = "CAI_API_KEY" in os.environ
    Path(os.environ["STANDIN_REPORT"]).write_text(json.dumps(report), encoding="utf-8")
    print(f"INFO server_args: api_key='{key}'")
    if MODE == "dies":
        print("ValueError: no room for the KV cache of", key, file=sys.stderr)
        print("", file=sys.stderr)
        sys.exit(3)
    if MODE == "never":
        time.sleep(600)
    serve(key)


def serve(key: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            allowed = self.headers["Authorization"] == f"Bearer {key}"
            known = body["model"] == option("--served-model-name")
            self.answer(200 if allowed and known else 401, answer(body))
            if MODE == "dies later":
                print("CUDA error: an illegal memory access", flush=True)
                os._exit(1)

        def answer(self, status: int, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    ThreadingHTTPServer((option("--host"), int(option("--port"))), Handler).serve_forever()


def answer(body: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "A reply."},
    }
    if body.get("logprobs"):
        top = [{"token": "A", "logprob": -0.25}, {"token": "B", "logprob": -1.5}]
        choice["logprobs"] = {"content": [{"token": "A", "top_logprobs": top}]}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return {"id": "x", "choices": [choice], "usage": usage}


if __name__ == "__main__":
    main()
