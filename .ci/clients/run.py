"""Runs the official OpenAI clients against real processes: `run.py BINARIES CACHE`.

BINARIES is the folder with `iris-coordinator` and `iris-node`, CACHE a folder outside of the
clone where the clients are installed. The network has a node with the built-in engine, a node in
front of a scripted model server, a node with a single slot, and one that has gone. Everything runs
twice: against the coordinator itself, whose endpoint is open, and through `iris proxy`, which seals.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import packages
from network import Failed, Network
from scripted_server import CUT_AFTER, GREETING, USAGE, ScriptedServer
from wire import Wire

HERE = os.path.dirname(os.path.abspath(__file__))
SUITE_LIMIT = 300.0

ENGINE = "iris-tiny"
# A slash and a colon, as in the names that people's servers use.
SCRIPTED = "test/scripted:1"
SINGLE = "single-slot"
GONE = "gone-away"


def main(binaries, cache):
    os.makedirs(cache, exist_ok=True)
    interpreter, modules = packages.python(cache), packages.node(cache)
    with tempfile.TemporaryDirectory(prefix="iris-clients-") as folder:
        with Network(os.path.abspath(binaries), folder) as network:
            try:
                facts = start(network)
                sealed = {**facts, "base_url": f"{network.start_proxy()}/v1", "privacy": "sealed"}
                results = [
                    run(interpreter, modules, folder, each)
                    for each in (facts, sealed)
                    for run in (run_python, run_node)
                ]
            except Failed as failure:
                print(f"{failure}\n{network.logs()}", file=sys.stderr)
                return 1
            if any(results):
                print(network.logs(), file=sys.stderr)
                return 1
    return 0


def start(network):
    """Starts everything and returns what the tests need to know, as JSON."""
    network.start_coordinator()
    key = network.new_key("inference")
    scripted = ScriptedServer(SCRIPTED, 8)
    single = ScriptedServer(SINGLE, 1)
    gone = ScriptedServer(GONE, 1)
    network.start_node("engine", {"IRIS_ENGINE": "bundled"})
    wire = Wire(network.url, os.path.join(network.folder, "wire"))
    through = {"LMSTUDIO_URL": scripted.url, "COORDINATOR_URL": wire.url}
    network.start_node("scripted", through)
    network.start_node("single", {"LMSTUDIO_URL": single.url})
    leaver = network.start_node("gone", {"LMSTUDIO_URL": gone.url})
    everything = {ENGINE, SCRIPTED, SINGLE, GONE}
    network.wait_until("all models are listed", lambda: network.models(key) >= everything)
    code = leaver.stop()
    if code != 0:
        raise Failed(f"a node that was told to stop ended with {code}:\n{leaver.output()}")
    network.wait_until("the node has gone", lambda: "gone" not in network.node_names(key))
    return {
        "base_url": f"{network.url}/v1",
        "open_url": f"{network.url}/v1",
        "privacy": "open",
        "coordinator": network.coordinator,
        "key": key,
        "account": network.account,
        "account_key": network.account_key,
        "folder": network.folder,
        "wire": wire.folder,
        "node_key": network.new_key("node"),
        "scripted_url": scripted.url,
        "single_url": single.url,
        "models": {"engine": ENGINE, "scripted": SCRIPTED, "single": SINGLE, "gone": GONE},
        "greeting": GREETING,
        "usage": USAGE,
        "cut_after": CUT_AFTER,
    }


def run_python(interpreter, _, folder, facts):
    tests = os.path.join(HERE, "python")
    flags = ["-q", "-p", "no:cacheprovider", "--tb=short", "--color=no"]
    line = [interpreter, "-B", "-m", "pytest", *flags, tests]
    return run_suite(f"openai for Python, {facts['privacy']}", line, tests, folder, facts)


def run_node(_, modules, folder, facts):
    # Modules are looked up beside the file that imports them.
    tests = os.path.join(folder, f"node-{facts['privacy']}")
    shutil.copytree(os.path.join(HERE, "node"), tests)
    os.symlink(os.path.join(modules, "node_modules"), os.path.join(tests, "node_modules"))
    files = sorted(name for name in os.listdir(tests) if name.endswith(".test.mjs"))
    flags = ["--test", "--test-reporter=spec", "--test-concurrency=1"]
    line = ["node", *flags, *files]
    return run_suite(f"openai for Node, {facts['privacy']}", line, tests, folder, facts)


def run_suite(name, line, tests, folder, facts):
    print(f"--- {name}", flush=True)
    path = os.path.join(folder, "network.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(facts, file)
    drop = ("OPENAI_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(drop)}
    environment.update(IRIS_TEST_NETWORK=path, NO_COLOR="1")
    done = subprocess.run(
        line, cwd=tests, env=environment, check=False, stdin=subprocess.DEVNULL,
        timeout=SUITE_LIMIT,
    )
    return done.returncode


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
