"""A network of real processes: one coordinator and its nodes, on free ports, in one folder."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

START_LIMIT = 60.0
STOP_LIMIT = 20.0
ADDRESS = re.compile(r"https?://127\.0\.0\.1:[1-9]\d*")
DIGITS = re.compile(r"\b\d{4} \d{4} \d{4} \d{4}\b")
ACCOUNT = re.compile(r"^account ([0-9a-f]+)$", re.MULTILINE)


class Failed(Exception):
    """A process that did not do what it should, with what it said."""


class Network:
    """Starts processes; leaving the `with` block stops them."""

    def __init__(self, binaries, folder):
        self.binaries = binaries
        self.coordinator = None
        self.folder = folder
        self.programs = []
        self.url = None
        self.account = None
        self.account_key = None
        self.settings = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for program in reversed(self.programs):
            program.stop()

    def start_coordinator(self, prepare=None, **changes):
        """Starts the coordinator; `prepare` may change the store before, in its SQLite file."""
        settings = self.settings = {**self._coordinator_settings(), **changes}
        printed, said = self._command("iris-coordinator", ["account", "new"], settings)
        digits, account = DIGITS.search(printed), ACCOUNT.search(said)
        if not digits or not account:
            raise Failed(f"`iris-coordinator account new` opened no account:\n{printed}{said}")
        self.account_key, self.account = digits[0], account[1]
        if prepare is not None:
            prepare(self._path("iris.db"))
        program = self._start("iris-coordinator", [], settings, "coordinator")
        self.coordinator = program.process.pid
        self.url = program.wait_for(ADDRESS)
        self.wait_until("the coordinator is ready", lambda: self._status("/readyz") == 200)

    def start_node(self, name, settings):
        """Starts a node that is the account's, and lets the caller wait for its model."""
        return self._start("iris-node", [], self._node_settings(name, settings), name)

    def node_command(self, name, settings):
        """Returns the program and the environment of such a node, for others to start."""
        environment = {**_environment(), **self._node_settings(name, settings)}
        return os.path.join(self.binaries, "iris-node"), environment

    def start_proxy(self):
        """Starts what seals the requests of ordinary programs, and returns its address."""
        settings = {"IRIS_URL": self.url, "XDG_STATE_HOME": self._path("state")}
        program = self._start("iris", ["proxy", "--listen", "127.0.0.1:0"], settings, "proxy")
        return program.wait_for(ADDRESS)

    def new_key(self, scope):
        asked = {"account_key": self.account_key, "scope": scope, "label": "clients"}
        status, answer = self._json("/accounts/keys", asked)
        if status != 201:
            raise Failed(f"POST /accounts/keys answered {status}: {answer}")
        return answer["key"]

    def operator_key(self, scope):
        """Returns what the operator's command prints when it makes a key."""
        line = ["key", "new", "--account", self.account, "--scope", scope]
        return self._command("iris-coordinator", line, self.settings)[0]

    def models(self, key):
        """Returns the names of the models that are offered now."""
        _, answer = self._json("/v1/models", key=key)
        return {model["id"] for model in answer["data"]}

    def sealed_models(self, key):
        """Returns the names of the models that can be sealed to now."""
        _, answer = self._json("/roster", key=key)
        nodes = json.loads(answer["roster"])["nodes"]
        return {model["name"] for node in nodes for model in node["models"]}

    def node_names(self, key):
        _, answer = self._json("/nodes", key=key)
        return {node.get("name") for node in answer["nodes"]}

    def running(self, key):
        """Returns how many tasks the nodes work on."""
        _, answer = self._json("/nodes", key=key)
        return sum(node["running"] for node in answer["nodes"])

    def wait_until(self, what, is_so, limit=START_LIMIT):
        end = time.monotonic() + limit
        while time.monotonic() < end:
            for program in self.programs:
                program.check()
            if is_so():
                return
            time.sleep(0.05)
        raise Failed(f"not within {limit:.0f} s: {what}\n{self.logs()}")

    def logs(self):
        return "\n".join(f"--- {p.name}\n{p.output()[-4000:]}" for p in self.programs)

    def _coordinator_settings(self):
        return {
            "DATABASE_URL": f"sqlite:///{self._path('iris.db')}",
            "COORDINATOR_PRIVATE_KEY_PATH": self._path("coordinator.key"),
            "LISTEN": "127.0.0.1:0",
            # What a log may hold at most is looked at.
            "RUST_LOG": "trace",
            # Callers of a busy model hear so soon.
            "IRIS_MAX_WAIT_SECS": "1",
        }

    def _node_settings(self, name, settings):
        files = {"NODE_KEY_PATH": self._path(f"{name}.key")}
        account = {"IRIS_ACCOUNT_KEY": self.account_key}
        joins = {"NODE_ID": name, "COORDINATOR_URL": self.url}
        return {**files, **account, **joins, **settings}

    def _path(self, name):
        return os.path.join(self.folder, name)

    def _command(self, program, arguments, settings):
        line = [os.path.join(self.binaries, program), *arguments]
        environment = {**_environment(), **settings}
        done = subprocess.run(
            line, env=environment, cwd=self.folder, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, timeout=START_LIMIT,
        )
        if done.returncode != 0:
            raise Failed(f"{' '.join(line)} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout, done.stderr

    def _start(self, program, arguments, settings, name):
        line = [os.path.join(self.binaries, program), *arguments]
        started = Program(line, {**_environment(), **settings}, self.folder, name)
        self.programs.append(started)
        return started

    def _status(self, path):
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def _json(self, path, body=None, key=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data)
        request.add_header("content-type", "application/json")
        if key:
            request.add_header("authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


class Program:
    """A process whose output goes to a file."""

    def __init__(self, line, environment, folder, name):
        self.name = name
        self.log = os.path.join(folder, f"{name}.log")
        self.stopping = False
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                line, env=environment, cwd=folder, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT,
            )

    def output(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def check(self):
        code = self.process.poll()
        if code is not None and not self.stopping:
            raise Failed(f"{self.name} ended by itself with {code}:\n{self.output()[-4000:]}")

    def wait_for(self, pattern):
        """Waits until the program has printed something, and returns it."""
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end:
            found = pattern.search(self.output())
            if found:
                return found[0]
            self.check()
            time.sleep(0.05)
        raise Failed(f"{self.name} did not print {pattern.pattern}:\n{self.output()[-4000:]}")

    def stop(self):
        """Asks the program to stop and returns its exit code."""
        self.stopping = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed(f"{self.name} did not stop:\n{self.output()[-4000:]}") from None


def _environment():
    """Returns this process's environment without settings of Iris and without proxies."""
    known = ("PATH", "HOME", "TMPDIR", "LANG", "RUST_BACKTRACE")
    return {name: os.environ[name] for name in known if name in os.environ}
