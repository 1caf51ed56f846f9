"""Puts nodes before llama.cpp's own server, and hurts it: `llama.py BINARIES CACHE`.

The server is built from the sources that PyPI's llama-cpp-python brings, once for a cache. It
serves the model that Iris ships, also for vectors, which are compared with the built-in engine's,
and one of random weights that talks until it is told to stop. The official client asks; in the
middle of answers the server is killed, stopped and garbled. Whatever happens, a caller hears no
word that the model did not say, no answer that was cut passes for whole, and the network answers
again as soon as the server does.
"""

import concurrent.futures
import json
import operator
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import packages
from network import Failed, Network, Program
from wire import pass_on

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHIPPED = os.path.join(ROOT, "iris-node", "model", "iris-tiny-f16.gguf")
RANDOM = os.path.join(ROOT, "iris-node", "tests", "families", "qwen2.gguf")
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
# llama.cpp's server does not tell whether it makes vectors: a model's name does.
VECTORS = "iris-tiny-embedding"
# What is turned into vectors, and how near two vectors of one text are at least.
TEXTS = [QUESTION, "A gardener crossed the yard and said nothing at all.", "one", "¿Dónde está el río? 12 × 3 = 36"]
ALIKE = 0.999
SLOTS = 4
# How long a caller hears nothing before it leaves, in seconds.
PATIENCE = 10
# A server that is quick may be done before it is hurt.
TRIES = 20


def main(binaries, cache):
    interpreter = packages.python(cache)
    if os.path.realpath(sys.prefix) != os.path.realpath(os.path.dirname(os.path.dirname(interpreter))):
        os.execv(interpreter, [interpreter, *sys.argv])
    try:
        server = packages.llama_server(cache)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"!!! SKIPPED: nodes before llama.cpp's own server. It could not be built here: {error}")
        return 0
    with tempfile.TemporaryDirectory(prefix="iris-llama-") as folder:
        with Network(os.path.abspath(binaries), folder) as network:
            try:
                check(network, server)
            except Failed as failure:
                print(f"{failure}\n{network.logs()}", file=sys.stderr)
                return 1
    return 0


def check(network, program):
    network.start_coordinator()
    key = network.new_key("inference")
    shipped = Server(network, program, "iris-tiny", SHIPPED)
    random = Server(network, program, "random", RANDOM)
    # With a cache for each slot, this version makes other vectors of texts that come together.
    unified = ("--embeddings", "--pooling", "mean", "--kv-unified")
    vectors = Server(network, program, VECTORS, SHIPPED, *unified)
    passage = Passage(random.port)
    network.start_node("shipped", {"LMSTUDIO_URL": shipped.url, "IRIS_SLOTS": str(SLOTS)})
    network.start_node("random", {"LMSTUDIO_URL": f"http://127.0.0.1:{passage.port}"})
    network.start_node("vectors", {"LMSTUDIO_URL": vectors.url})
    network.start_node("engine", {"IRIS_ENGINE": shutil.copy(SHIPPED, os.path.join(network.folder, "engine.gguf"))})
    asker = Asker(network, key)
    offered = {"iris-tiny", "random", VECTORS, "engine"}
    network.wait_until("all are offered", lambda: network.models(key) >= offered)

    answers(network, asker, key)
    embeddings(asker)
    many(asker)
    prompt = long_prompt(asker)
    for what in (random.kill, random.pause, passage.garble, passage.cut):
        hurt(asker, random, prompt, what)
    network.wait_until("all is at rest", lambda: is_at_rest(network, (shipped, random, vectors), key))
    print("no slot is taken, neither in Iris nor in llama.cpp")


def answers(network, asker, key):
    whole = asker.ask("iris-tiny", QUESTION).choices[0]
    if (whole.message.content, whole.finish_reason) != (ANSWER, "stop"):
        raise Failed(f"llama.cpp through Iris answered {whole}")
    words, end = asker.stream("iris-tiny", QUESTION)
    if (words, end) != (ANSWER, "stop"):
        raise Failed(f"llama.cpp through Iris streamed {words!r}, {end}")
    environment = {"IRIS_URL": network.url, "IRIS_API_KEY": key, "XDG_STATE_HOME": network.folder}
    line = [os.path.join(network.binaries, "iris"), "ask", "--model", "iris-tiny", QUESTION]
    sealed = subprocess.run(
        line, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=60,
    )
    if sealed.stdout.strip() != ANSWER:
        raise Failed(f"sealed: {sealed.stdout}{sealed.stderr}")
    print(f"whole, streamed and sealed: {ANSWER}", flush=True)


def embeddings(asker):
    """The built-in engine makes the vectors that llama.cpp makes of the same file."""
    vectors = [asker.client.embeddings.create(model=model, input=TEXTS).data for model in ("engine", VECTORS)]
    near = [sum(map(operator.mul, *pair)) for pair in zip(*([each.embedding for each in data] for data in vectors))]
    apart = sum(map(operator.mul, vectors[0][0].embedding, vectors[0][1].embedding))
    if len(near) != len(TEXTS) or min(near) < ALIKE or apart >= ALIKE:
        raise Failed(f"cosine of the engine's vectors and llama.cpp's: {near}; of two texts: {apart}")
    print(f"vectors of {len(TEXTS)} texts: cosine at least {min(near):.6f}; of two of them {apart:.3f}", flush=True)


def many(asker):
    """More than its slots hold at once; those that wait too long are told so."""
    with concurrent.futures.ThreadPoolExecutor(32) as threads:
        heard = list(threads.map(lambda _: asker.stream("iris-tiny", QUESTION), range(64)))
    wrong = [each for each in heard if each not in ((ANSWER, "stop"), ("", "RateLimitError"))]
    right = heard.count((ANSWER, "stop"))
    if wrong or right < SLOTS:
        raise Failed(f"of 64 at once {right} were answered, and some wrongly: {wrong}")
    print(f"64 at once over {SLOTS} slots: {right} answered, the others told that all are busy", flush=True)


def hurt(asker, server, prompt, what):
    """Hurts what is behind the node in the middle of an answer."""
    whole = asker.stream("random", prompt)
    for _ in range(TRIES):
        words, end = asker.stream("random", prompt, what)
        server.heal()
        if end != whole[1]:
            break
    else:
        raise Failed(f"{what.__name__}: the answer was always done before")
    if end in ("stop", "length") or not whole[0].startswith(words):
        raise Failed(f"{what.__name__}: heard {words!r} and {end}, of {whole!r}")
    began = time.monotonic()
    asker.network.wait_until("it answers again", lambda: asker.stream("random", prompt) == whole)
    share = f"{len(words.encode())} of {len(whole[0].encode())} bytes and {end}"
    print(f"{what.__name__}: heard {share}; whole again after {time.monotonic() - began:.1f} s", flush=True)


def long_prompt(asker):
    """Returns a prompt to which the model of random weights talks until it is told to stop."""
    prompts = (f"talk {number}" for number in range(100))
    for prompt in prompts:
        if asker.stream("random", prompt)[1] == "length":
            return prompt
    raise Failed("the model of random weights never talks long enough")


def is_at_rest(network, servers, key):
    """Returns whether neither Iris nor llama.cpp works on anything."""
    if network.running(key) != 0:
        return False
    for server in servers:
        with urllib.request.urlopen(f"{server.url}/slots", timeout=5) as answer:
            if any(slot["is_processing"] for slot in json.load(answer)):
                return False
    return True


class Asker:
    """The official client, without its own second tries."""

    def __init__(self, network, key):
        import openai

        self.network = network
        self.openai = openai
        self.client = openai.OpenAI(base_url=f"{network.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE)

    def ask(self, model, prompt, **more):
        messages = [{"role": "user", "content": prompt}]
        return self.client.chat.completions.create(
            model=model, messages=messages, temperature=0, max_tokens=200, **more
        )

    def stream(self, model, prompt, at_first=lambda: None):
        """Returns what was heard, and the reason of its end: that of the model, or the error."""
        words, end = "", "without an end"
        try:
            for chunk in self.ask(model, prompt, stream=True):
                for choice in chunk.choices:
                    if choice.delta.content and not words:
                        at_first()
                    words += choice.delta.content or ""
                    end = choice.finish_reason or end
        except self.openai.APIError as error:
            end = type(error).__name__
        return words, end


class Server:
    """llama.cpp's server with one model, always at the same port."""

    def __init__(self, network, program, name, model, *more):
        self.network, self.name = network, name
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.line = [
            program, "--model", model, "--alias", name, "--host", "127.0.0.1", "--port", str(self.port),
            "--parallel", str(SLOTS), "--ctx-size", str(512 * SLOTS), "--threads", "1", "--no-warmup",
            *more,
        ]
        self.start()

    def start(self):
        environment = {"PATH": os.environ["PATH"], "HOME": self.network.folder}
        self.program = Program(self.line, environment, self.network.folder, f"llama-{self.name}")
        self.network.programs.append(self.program)
        self.network.wait_until(f"llama.cpp serves {self.name}", self.serves)

    def serves(self):
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self):
        self.program.stopping = True
        self.program.process.kill()
        self.program.process.wait()

    def pause(self):
        self.program.process.send_signal(signal.SIGSTOP)

    def heal(self):
        if self.program.process.poll() is not None:
            self.start()
        self.program.process.send_signal(signal.SIGCONT)


class Passage:
    """A port in front of another, where what comes back can be cut or garbled."""

    def __init__(self, target):
        self.target, self.next = target, None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def garble(self):
        """What comes next is garbled, for one answer."""
        self.next = lambda data: bytes(byte ^ 0x55 for byte in data)

    def cut(self):
        """The connection ends where it is."""
        self.next = lambda data: b""

    def _accept(self):
        while True:
            near, _ = self.listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            for source, sink, see in ((near, far, lambda data: data), (far, near, self._change)):
                run = threading.Thread(target=pass_on, args=(source, sink, see, 512), daemon=True)
                run.start()

    def _change(self, data):
        change, self.next = self.next, None
        return change(data) if change and data else data


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
