"""Runs a folder's tests for Node: those that need a network are told of it in a file."""

import json
import os
import subprocess

LIMIT = 600.0


def run(tests, variable, facts, folder):
    """Runs the tests, of which `variable` names a file with the facts, and returns the exit code."""
    path = os.path.join(folder, "facts.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(facts, file)
    flags = ["--no-warnings", "--test", "--test-reporter=spec", "--test-concurrency=1"]
    files = sorted(name for name in os.listdir(tests) if name.endswith(".test.mjs"))
    done = subprocess.run(
        ["node", *flags, *files], cwd=tests, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, variable: path, "NO_COLOR": "1"}, timeout=LIMIT,
    )
    return done.returncode
