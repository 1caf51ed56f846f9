import http.client
import json
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from conftest import TIMEOUT, connect

HELLO = [{"role": "user", "content": "Hello"}]
MEMBERS = {"message", "type", "param", "code"}


def refused(kind, call, **arguments):
    """Calls, and returns the refusal after checking what all refusals have."""
    with pytest.raises(kind) as caught:
        call(**arguments)
    error = caught.value
    assert type(error) is kind, f"{type(error).__name__} is not {kind.__name__}"
    assert error.request_id, "no x-request-id"
    assert error.response.headers["content-type"] == "application/json"
    assert set(error.response.json()["error"]) == MEMBERS
    assert error.message
    return error


def raw(network, method, path, body=None, **headers):
    """Sends what no client library would; returns status, headers and body."""
    url = urllib.parse.urlparse(network["base_url"])
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=TIMEOUT)
    try:
        headers = {"authorization": f"Bearer {network['key']}", **headers}
        connection.request(method, url.path + path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_key_is_an_authentication_error(network, models, stream):
    chat = connect(network, "iris_wrong").chat.completions
    error = refused(
        openai.AuthenticationError,
        chat.create,
        model=models["engine"],
        messages=HELLO,
        stream=stream,
    )
    assert (error.code, error.type) == ("invalid_api_key", "invalid_request_error")
    assert error.response.headers["www-authenticate"] == "Bearer"


def test_key_of_a_node_may_not_ask(network, models):
    chat = connect(network, network["node_key"]).chat.completions
    refused(openai.PermissionDeniedError, chat.create, model=models["engine"], messages=HELLO)


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_model_is_not_found(client, stream):
    error = refused(
        openai.NotFoundError,
        client.chat.completions.create,
        model="no-such-model",
        messages=HELLO,
        stream=stream,
    )
    assert (error.code, error.param) == ("model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
def test_model_whose_node_has_gone_is_unavailable_for_a_while(client, models, stream):
    error = refused(
        openai.InternalServerError,
        client.chat.completions.create,
        model=models["gone"],
        messages=HELLO,
        stream=stream,
    )
    assert error.status_code == 503
    assert error.type == "server_error"
    assert 1 <= int(error.response.headers["retry-after"]) <= 60


def test_busy_model_says_when_to_come_back(client, models, single_script):
    holder = single_script("hold")
    ask = {"model": models["single"], "stream": True}
    with client.chat.completions.create(**ask, messages=holder.messages) as held:
        next(iter(held))
        error = refused(
            openai.RateLimitError,
            client.chat.completions.create,
            **ask,
            messages=single_script("hello").messages,
        )
    assert error.code == "rate_limit_exceeded"
    assert 1 <= int(error.response.headers["retry-after"]) <= 60
    holder.wait_for("left")


def test_client_that_retries_gets_its_answer_once_the_model_is_free(
    client, network, models, single_script
):
    patient = connect(network, network["key"]).with_options(max_retries=5)
    holder, waiter = single_script("hold"), single_script("hello")
    with ThreadPoolExecutor() as pool:
        with client.chat.completions.create(
            model=models["single"], messages=holder.messages, stream=True
        ) as held:
            next(iter(held))
            waiting = pool.submit(
                patient.chat.completions.create,
                model=models["single"],
                messages=waiter.messages,
            )
            # By the time that this request is refused the earlier one has been, too.
            with pytest.raises(openai.RateLimitError):
                client.chat.completions.create(model=models["single"], messages=HELLO)
            assert not waiting.done()
        answer = waiting.result(TIMEOUT)
    assert answer.choices[0].message.content == network["greeting"]


def test_too_long_prompt_is_the_callers_fault(client, models, script):
    for stream in (False, True):
        error = refused(
            openai.BadRequestError,
            client.chat.completions.create,
            model=models["scripted"],
            messages=script("too-long").messages,
            stream=stream,
        )
        assert error.code == "context_length_exceeded"


def test_wrong_type_is_a_bad_request_that_names_its_member(client, models):
    error = refused(
        openai.BadRequestError,
        client.chat.completions.create,
        model=models["engine"],
        messages="not a list",
    )
    assert (error.type, error.param) == ("invalid_request_error", "messages")


@pytest.mark.parametrize("body", ["", "{", '{"model":', "[]", "null", '{"a":1,"a":2}', "\xff"])
def test_malformed_body_is_a_bad_request(network, body):
    kind = {"content-type": "application/json"}
    status, headers, answer = raw(
        network, "POST", "/chat/completions", body.encode("latin-1"), **kind
    )
    assert status == 400, answer
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"]
    assert set(answer["error"]) == MEMBERS
    assert answer["error"]["type"] == "invalid_request_error"


def test_wrong_method_names_the_right_one(client):
    error = refused(openai.APIStatusError, client.get, path="/chat/completions", cast_to=object)
    assert error.status_code == 405
    assert "POST" in error.response.headers["allow"]


def test_unknown_path_is_not_found(client):
    refused(openai.NotFoundError, client.get, path="/no/such/path", cast_to=object)


def test_too_large_body_is_refused(client, models):
    error = refused(
        openai.APIStatusError,
        client.chat.completions.create,
        model=models["engine"],
        messages=[{"role": "user", "content": "a" * (33 << 20)}],
    )
    assert error.status_code == 413
