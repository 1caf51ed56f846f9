"""Uses the coordinator's pages in Chromium, as people do: `pages.py BINARIES CACHE`.

A coordinator, a node with the built-in model, and one in front of a scripted model server, whose
name is an attack on pages, are real processes. BINARIES is the folder with `iris-coordinator` and
`iris-node`, CACHE a folder outside of the clone for what drives the browser, and for screenshots.
"""

import contextlib
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time

import packages
import suite
from network import Failed, Network
from scripted_server import ScriptedServer
from seal import BROWSERS, ROOT

TESTS = os.path.join(ROOT, "iris-coordinator", "pages", "test")
ENGINE = "iris-tiny"
SCRIPTED = "scripted"
ATTACK = "<img src=x onerror=hacked()>"
# Somebody who objects to a verdict.
OWNER = "b" * 32
VERDICT = "7" * 32


def main(binaries, cache):
    os.makedirs(cache, exist_ok=True)
    modules = os.path.join(packages.browser(cache), "node_modules")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"none of {', '.join(BROWSERS)} is installed", file=sys.stderr)
        return 1
    shots = os.path.join(cache, "pages")
    os.makedirs(shots, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="iris-pages-") as folder:
        with Network(os.path.abspath(binaries), folder) as network:
            try:
                public = {"IRIS_OPEN_REGISTRATION": "true", "IRIS_PUBLIC_CHAT": "true"}
                network.start_coordinator(write_history, **public)
                key = network.new_key("inference")
                operator = network.operator_key("admin").strip()
                scripted = ScriptedServer(SCRIPTED, 4)
                network.start_node("engine", {"IRIS_ENGINE": "bundled"})
                attack = {"LMSTUDIO_URL": scripted.url, "NODE_ID": ATTACK}
                network.start_node("scripted", attack)
                is_listed = lambda: {ENGINE, SCRIPTED} <= network.sealed_models(key)
                network.wait_until("the models are in the roster", is_listed)
            except Failed as failure:
                print(f"{failure}\n{network.logs()}", file=sys.stderr)
                return 1
            facts = {
                "url": network.url,
                "digits": network.account_key,
                "key": key,
                "operator": operator,
                "engine": ENGINE,
                "scripted": SCRIPTED,
                "attack": ATTACK,
                "verdict": VERDICT,
                "visiting": visiting(network, scripted.url),
                "browser": browser,
                "playwright": os.path.join(modules, "playwright-core", "index.mjs"),
                "axe": os.path.join(modules, "axe-core", "axe.min.js"),
                "shots": shots,
            }
            if suite.run(TESTS, "IRIS_PAGES_FACTS", facts, folder) != 0:
                print(network.logs(), file=sys.stderr)
                return 1
    return 0


def write_history(file):
    """Gives a network that is new a past: a verdict that waits for a decision."""
    now = int(time.time() * 1000)
    trial = {"tokens": 90, "mismatches": 30, "likelihood": 13_000_000}
    evidence = {"suspicion": trial, "suspecting": "8" * 32, "confirmation": trial, "answers": 1,
                "confirming": ["9" * 32], "error": 100, "prompts": []}
    verdict = {"id": VERDICT, "node": "a" * 26, "owner": OWNER, "model": SCRIPTED,
               "offence": "another_model", "at": now, "appeal_until": now + 1, "evidence": evidence}
    appeal = {"state": "open", "at": now}
    case = {"verdict": verdict, "appeal": appeal, "objection": "Another file was loaded.",
            "seeds": [], "prompts": ["What are the primary colours?"]}
    row = (f"verdict/{VERDICT}", json.dumps(case))
    with contextlib.closing(sqlite3.connect(file)) as books, books:
        books.execute("INSERT INTO records (key, version, value) VALUES (?, 1, ?)", row)


def visiting(network, model_server):
    """Returns how to start a further node of the account, which comes and goes."""
    program, environment = network.node_command("visiting", {"LMSTUDIO_URL": model_server})
    return {"name": "visiting", "program": program, "environment": environment}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
