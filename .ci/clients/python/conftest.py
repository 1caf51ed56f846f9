"""What every test gets: the network's addresses and keys, and clients that do not retry."""

import json
import os
import time
import urllib.parse
import urllib.request
import uuid

import openai
import pytest

# A client that waits longer than this has found a fault.
TIMEOUT = 20.0


@pytest.fixture(scope="session")
def network():
    with open(os.environ["IRIS_TEST_NETWORK"], encoding="utf-8") as file:
        return json.load(file)


@pytest.fixture(scope="session")
def models(network):
    return network["models"]


@pytest.fixture(scope="session")
def client(network):
    return connect(network, network["key"])


def connect(network, key):
    return openai.OpenAI(
        base_url=network["base_url"], api_key=key, max_retries=0, timeout=TIMEOUT
    )


class Script:
    """One request to a scripted server: the prompt for it, and what the server saw of it."""

    def __init__(self, url, action):
        self.marker = uuid.uuid4().hex
        self.messages = [{"role": "user", "content": f"{self.marker} {action}"}]
        self._url = f"{url}/recorded?" + urllib.parse.urlencode({"marker": self.marker})

    def recorded(self):
        with urllib.request.urlopen(self._url, timeout=TIMEOUT) as answer:
            return json.load(answer)

    def wait_for(self, fact, limit=5.0):
        end = time.monotonic() + limit
        while time.monotonic() < end:
            record = self.recorded()
            if fact in record:
                return record[fact]
            time.sleep(0.02)
        raise AssertionError(f"the scripted server saw no '{fact}' within {limit} s")


@pytest.fixture
def script(network):
    return lambda action: Script(network["scripted_url"], action)


@pytest.fixture
def single_script(network):
    return lambda action: Script(network["single_url"], action)
