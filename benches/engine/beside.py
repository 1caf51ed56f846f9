#!/usr/bin/env python3
"""Measures the built-in engine beside llama.cpp's own server, in turns, in one run.

    python benches/engine/beside.py PROGRAM LLAMA_SERVER MODEL.gguf [MODEL.gguf ...]

PROGRAM is what `cargo build --release -p iris-benches --features engine --bin engine` makes (with
`--features llama-cpp` it measures llama.cpp in its own process, too), and
LLAMA_SERVER is best built for this machine (-O3, GGML_NATIVE=ON, as without more flags). Both get
the same number of threads: THREADS in the environment, or 1. The server keeps no prompts, so that
both read each.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request

THREADS = os.environ.get("THREADS", "1")
TOGETHER = 4


def main(program, server, models):
    for model in models:
        print(f"\n{os.path.basename(model)}, {THREADS} thread(s), load {os.getloadavg()[0]:.1f}", flush=True)
        measure(program, server, model)


def measure(program, server, model):
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    line = [
        server, "--model", model, "--host", "127.0.0.1", "--port", str(port), "--threads", THREADS,
        "--parallel", str(TOGETHER), "--ctx-size", str(512 * TOGETHER), "--cache-ram", "0",
        "--no-cache-prompt",
    ]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_it_serves(process, port)
        line = [
            program, "--model", model, "--server", f"http://127.0.0.1:{port}/v1",
            "--server-process", str(process.pid), "--together", str(TOGETHER),
        ]
        subprocess.run(line, check=True, env={**os.environ, "RAYON_NUM_THREADS": THREADS})
    finally:
        process.kill()
        process.wait()


def until_it_serves(process, port):
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("llama-server did not start")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
