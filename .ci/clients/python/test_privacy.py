"""Who sees what. The README's table names these tests."""

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
            if not os.path.isfile(path):
                continue
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
        files = everything_in(folder, skip=("wire", "node-open", "node-sealed"))
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


def test_answers_say_who_can_read_them(client, models, network, script):
    raw = client.chat.completions.with_raw_response.create(
        model=models["scripted"], messages=script("hello").messages
    )
    assert raw.headers["x-iris-privacy"] == network["privacy"]


def memory(pid):
    """Returns all that a process holds in memory that it can write, as far as it can be read."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
        maps = [line.split() for line in file]
    parts = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for span, rights, *_ in maps:
            start, end = (int(bound, 16) for bound in span.split("-"))
            if not rights.startswith("rw") or end - start > 1 << 30:
                continue
            try:
                file.seek(start)
                parts.append(file.read(end - start))
            except OSError:
                # The kernel's own pages, and what was given back meanwhile.
                continue
    return b"".join(parts)


def test_coordinator_never_holds_what_was_sealed(client, models, network, script):
    """Looks for a prompt and an answer in everything that the coordinator has, while it has them."""
    held = script("hold")
    prompt, answer = held.marker, held.marker[::-1]
    stream = client.chat.completions.create(
        model=models["scripted"], messages=held.messages, stream=True
    )
    try:
        text = ""
        for chunk in stream:
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
            if answer in text and text.endswith("word "):
                break
        assert answer in text, "the caller has the answer's beginning"
        process = memory(network["coordinator"])
    finally:
        stream.close()
    held.wait_for("left")
    files = b"".join(everything_in(network["folder"], skip=("node-open", "node-sealed")).values())
    assert len(process) > 1 << 20 and len(files) > 1 << 18
    found = {
        "prompt in memory": found_in(process, prompt),
        "answer in memory": found_in(process, answer),
        "prompt in logs, database or frames": found_in(files, prompt),
        "answer in logs, database or frames": found_in(files, answer),
    }
    # In open mode the coordinator reads them, so that the same search has to find them.
    is_open = network["privacy"] == "open"
    expected = {place: is_open and "memory" in place for place in found}
    assert found == expected
