"""Takes the README's pictures of the pages: `pictures.py BINARIES CACHE`.

A network of real processes works for some minutes meanwhile: a coordinator, nodes with the built-in
model, and callers who ask it for what it knows. The pictures go to `iris-coordinator/docs`. BINARIES
is the folder with `iris-coordinator` and `iris-node`, CACHE a folder outside of the clone for what
drives the browser.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request

import packages
from network import Failed, Network
from seal import BROWSERS, ROOT

NODES = ["attic", "cellar", "kitchen", "studio", "garage", "library", "workshop"]
MODEL = "iris-tiny"
CAPITALS = ["France", "Italy", "Spain", "Japan", "Portugal", "Greece", "Norway", "Peru"]
PICTURES = os.path.join(ROOT, "iris-coordinator", "docs")
LIMIT = 600.0


def main(binaries, cache):
    os.makedirs(cache, exist_ok=True)
    os.makedirs(PICTURES, exist_ok=True)
    modules = os.path.join(packages.browser(cache), "node_modules")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"none of {', '.join(BROWSERS)} is installed", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="iris-pictures-") as folder:
        with Network(os.path.abspath(binaries), folder) as network:
            try:
                network.start_coordinator(IRIS_OPEN_REGISTRATION="true", RUST_LOG="warn")
                for name in NODES:
                    network.start_node(name, {"IRIS_ENGINE": "bundled", "IRIS_SLOTS": "2"})
                key = network.new_key("inference")
                everybody = lambda: set(NODES) <= network.node_names(key)
                network.wait_until("all nodes are there", everybody)
            except Failed as failure:
                print(f"{failure}\n{network.logs()}", file=sys.stderr)
                return 1
            done = threading.Event()
            callers = [threading.Thread(target=call, args=(network.url, key, n, done)) for n in range(3)]
            for caller in callers:
                caller.start()
            facts = {
                "url": network.url,
                "digits": network.account_key,
                "key": key,
                "engine": MODEL,
                "browser": browser,
                "playwright": os.path.join(modules, "playwright-core", "index.mjs"),
                "axe": os.path.join(modules, "axe-core", "axe.min.js"),
                "shots": PICTURES,
            }
            try:
                return take(facts, folder)
            finally:
                done.set()
                for caller in callers:
                    caller.join()


def take(facts, folder):
    path = os.path.join(folder, "facts.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(facts, file)
    script = os.path.join(ROOT, "iris-coordinator", "pages", "test", "pictures.mjs")
    environment = {**os.environ, "IRIS_PAGES_FACTS": path}
    line = ["node", "--no-warnings", script]
    return subprocess.run(line, env=environment, check=False, timeout=LIMIT).returncode


def call(url, key, seed, done):
    """Asks now and then, until it is `done`."""
    chance = random.Random(seed)
    while not done.wait(chance.uniform(0.05, 1.2)):
        question = f"What is the capital of {chance.choice(CAPITALS)}?"
        body = {"model": MODEL, "messages": [{"role": "user", "content": question}]}
        request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
        request.add_header("content-type", "application/json")
        request.add_header("authorization", f"Bearer {key}")
        try:
            urllib.request.urlopen(request, timeout=30).close()
        except OSError:
            # A picture of a network that refuses now and then is an honest one.
            pass


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
