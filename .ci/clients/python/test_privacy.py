"""Who sees what, in open mode. The README's table names these tests."""

import base64
import json
import os
import time
import urllib.request
import uuid

import pytest
from conftest import TIMEOUT

TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def forms(text):
    """Returns the bytes in which a text could lie about."""
    raw = text.encode()
    encoded = {base64.b64encode(b"x" * shift + raw)[4:-4] for shift in range(3)}
    return {raw, raw.hex().encode(), text.encode("utf-16-le"), *encoded}


def found_in(data, text):
    return any(form in data for form in forms(text))


def everything_in(folder, skip=()):
    """Returns the bytes of all files below a folder, by path."""
    files = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in skip]
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                files[path] = file.read()
    return files


def database(files):
    return b"".join(data for path, data in files.items() if "iris.db" in path)


def files_once_booked(folder, text):
    """Returns the files below a folder once its database holds a text.

    The books are written behind the answers, so a caller may have one before they have it.
    """
    deadline = time.monotonic() + TIMEOUT
    while True:
        files = everything_in(folder, skip=("wire", "node"))
        if found_in(database(files), text) or time.monotonic() > deadline:
            return files
        time.sleep(0.01)


@pytest.fixture(scope="module")
def exchange(client, models, network):
    """One whole conversation, streamed and not, with a prompt and an answer like no other."""
    from conftest import Script

    script = Script(network["scripted_url"], "tool")
    marker = script.marker
    secret = f"secret-{uuid.uuid4().hex}"
    messages = [{"role": "system", "content": secret}, *script.messages]
    ask = {"model": models["scripted"], "messages": messages, "tools": [TOOL]}
    raw = client.chat.completions.with_raw_response.create(**ask)
    list(client.chat.completions.create(**ask, stream=True))
    return {"prompt": secret, "marker": marker, "request": raw.headers["x-request-id"]}


def test_coordinator_and_its_disk_keep_no_prompt(exchange, network):
    files = files_once_booked(network["folder"], exchange["request"])
    # What is kept of a request is found, so what is not found is not kept.
    assert found_in(database(files), exchange["request"])
    for path, data in files.items():
        assert not found_in(data, exchange["prompt"]), f"{path} holds the prompt"
        assert not found_in(data, exchange["marker"]), f"{path} holds the prompt"


def test_stolen_database_yields_no_credential(exchange, network):
    books = database(files_once_booked(network["folder"], network["account"]))
    # The account is named, so the records about it are there.
    assert found_in(books, network["account"])
    digits = network["account_key"]
    for secret in (network["key"], network["node_key"], digits, digits.replace(" ", "")):
        assert not found_in(books, secret)


def test_hop_to_the_node_is_sealed(exchange, network):
    wire = everything_in(network["wire"])
    assert len(wire) == 4, sorted(wire)
    everything = b"".join(wire.values())
    # The control messages are clear, and the sealed bytes are there.
    assert b"TASK_ASSIGN" in everything and network["models"]["scripted"].encode() in everything
    sealed = {os.path.basename(path): len(data) for path, data in wire.items()}
    assert sealed["to_node.binary"] > 500 and sealed["to_coordinator.binary"] > 100, sealed
    assert not found_in(everything, exchange["prompt"])
    assert not found_in(everything, exchange["marker"])
    assert b"call_1" not in everything and b"Paris" not in everything


def test_node_and_its_server_learn_neither_account_nor_key_nor_address(exchange, network):
    to_node = b"".join(
        data for path, data in everything_in(network["wire"]).items() if "to_node" in path
    )
    url = f"{network['scripted_url']}/recorded?marker={exchange['marker']}"
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        received = json.load(answer)
    assert exchange["prompt"] in json.dumps(received["body"])
    seen = to_node + json.dumps(received).lower().encode()
    assert b"task_assign" in seen.lower()
    for secret in (network["account"], network["key"], "127.0.0.1:", "x-forwarded-for"):
        own = network["scripted_url"].removeprefix("http://").encode()
        assert secret.encode() not in seen.replace(own, b""), f"the node sees {secret}"
    assert "authorization" not in received["headers"]


def test_answers_say_that_they_are_open(client, models, script):
    raw = client.chat.completions.with_raw_response.create(
        model=models["scripted"], messages=script("hello").messages
    )
    assert raw.headers["x-iris-privacy"] == "open"
