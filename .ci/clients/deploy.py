"""Starts what examples/deploy describes, as far as any machine can: `deploy.py BINARIES CACHE`.

The coordinator and a node run as processes with the very settings of `compose.yaml`, its paths laid
into a temporary folder, over TLS with certificates that its script made. A key of the scope that
Prometheus is given reads the figures. Units are checked by systemd where it is installed.
"""

import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.request

import packages
from network import Failed, Network

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEPLOY = os.path.join(ROOT, "examples", "deploy")
MODEL = "iris-tiny"
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
# Where a container has something, and what is there in its place.
PLACES = {"/run/secrets/": "deploy/secrets/", "/data/": "data/", "/keys/": "keys/"}
LISTENS = "0.0.0.0:8443"
COORDINATOR = "https://coordinator:8443"
# Read by others than Iris, so no help text names them.
FOREIGN = {"OLLAMA_HOST"}


def main(binaries, cache):
    interpreter = packages.python(cache)
    if os.path.realpath(sys.prefix) != os.path.realpath(os.path.dirname(os.path.dirname(interpreter))):
        os.execv(interpreter, [interpreter, *sys.argv])
    binaries = os.path.abspath(binaries)
    services = read("compose.yaml")["services"]
    with tempfile.TemporaryDirectory(prefix="iris-deploy-") as folder:
        try:
            names_are_known(binaries, services)
            units(binaries, folder)
            with Network(binaries, folder) as network:
                try:
                    answers(network, services, folder)
                except Failed as failure:
                    raise Failed(f"{failure}\n{network.logs()}") from None
        except Failed as failure:
            print(failure, file=sys.stderr)
            return 1
    return 0


def read(name):
    import yaml

    with open(os.path.join(DEPLOY, name), encoding="utf-8") as file:
        return yaml.safe_load(file)


def names_are_known(binaries, services):
    """An unknown variable would be ignored in silence."""
    for name, service in services.items():
        given = set(service.get("environment", {})) - FOREIGN
        if not given:
            continue
        [program] = service["command"]
        line = [os.path.join(binaries, program), "--help"]
        text = subprocess.run(line, capture_output=True, text=True, check=True).stdout
        unknown = given - set(re.findall(r"\b[A-Z][A-Z_]+\b", text))
        if unknown:
            raise Failed(f"compose.yaml: {program} does not know {unknown} of {name}")
        print(f"{name}: {program} knows all of its {len(given)} settings")


def units(binaries, folder):
    if shutil.which("systemd-analyze") is None:
        print("!!! SKIPPED: the units. They need systemd-analyze, which is not installed here.")
        return
    for program in ("iris-coordinator", "iris-node"):
        with open(os.path.join(DEPLOY, f"{program}.service"), encoding="utf-8") as file:
            text = file.read().replace("/usr/local/bin", binaries)
        path = os.path.join(folder, f"{program}.service")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        line = ["systemd-analyze", "verify", path]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode != 0 or program in done.stderr:
            raise Failed(f"{program}.service: {done.stderr}")
        print(f"{program}.service: systemd finds no fault")


def answers(network, services, folder):
    copy = os.path.join(folder, "deploy")
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("secrets"))
    for place in ("data", "keys"):
        os.mkdir(os.path.join(folder, place))
    run([os.path.join(copy, "certificates"), "iris.example"])
    authority = os.path.join(copy, "secrets", "authority.pem")
    os.environ["SSL_CERT_FILE"] = authority

    network.start_coordinator(**settings(services["coordinator"], folder))
    with open(os.path.join(copy, "secrets", "node.toml"), "w", encoding="utf-8") as file:
        file.write(f'account_key = "{network.account_key}"\n')
    # The account comes from the file, as it does in the container.
    network.start_node("node", {**settings(services["node"], folder), "IRIS_ACCOUNT_KEY": ""})
    key = network.new_key("inference")
    network.wait_until("the model is offered", lambda: MODEL in network.sealed_models(key))
    asked = {"IRIS_API_KEY": key, "IRIS_URL": network.url, "IRIS_CA_FILE": authority}
    line = [os.path.join(network.binaries, "iris"), "ask", QUESTION]
    said = run(line, {**os.environ, **asked, "XDG_STATE_HOME": folder}).strip()
    if said != ANSWER:
        raise Failed(f"the answer was: {said}")
    print(f"over TLS: {said}")
    figures(network, folder)


def settings(service, folder):
    """Returns a service's settings, with its paths in the folder and a free port."""
    replaced = {}
    for name, value in service["environment"].items():
        for there, here in PLACES.items():
            value = value.replace(there, f"{folder}/{here}")
        if value == LISTENS:
            value = "127.0.0.1:0"
        if value != COORDINATOR:
            replaced[name] = value
    return replaced


def figures(network, folder):
    """Reads what Prometheus reads, by the scheme, key and authority that it is told."""
    [job] = read("prometheus.yml")["scrape_configs"]
    place = lambda path: path.replace("/run/secrets/", f"{folder}/deploy/secrets/")
    key = network.operator_key("read")
    with open(place(job["authorization"]["credentials_file"]), "w", encoding="utf-8") as file:
        file.write(key)
    trust = ssl.create_default_context(cafile=place(job["tls_config"]["ca_file"]))
    request = urllib.request.Request(network.url + "/metrics")
    request.add_header("authorization", f"Bearer {key.strip()}")
    with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
        text = answer.read().decode()
    if f"{job['scheme']}:" != network.url.partition("//")[0] or "iris_nodes" not in text:
        raise Failed(f"the figures are not what Prometheus expects:\n{text[:2000]}")
    print(f"Prometheus would read {text.count(chr(10))} lines")


def run(line, environment=None):
    done = subprocess.run(
        line, env=environment, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=60,
    )
    if done.returncode != 0:
        raise Failed(f"{line[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
