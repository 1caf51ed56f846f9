import http.client
import json
import time
import urllib.parse

import openai
import pytest
from conftest import TIMEOUT


def test_cut_stream_raises_after_what_had_come(client, models, network, script):
    stream = client.chat.completions.create(
        model=models["scripted"], messages=script("cut").messages, stream=True
    )
    words = []
    with pytest.raises(openai.APIError):
        for chunk in stream:
            words.append(chunk.choices[0].delta.content or "")
            assert chunk.choices[0].finish_reason is None
    assert "".join(words).split() == [f"word{n}" for n in range(network["cut_after"])]


def raw_stream(network, model, messages):
    """Returns head and text of a stream as they come over the wire."""
    url = urllib.parse.urlparse(network["base_url"])
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=TIMEOUT)
    body = {"model": model, "messages": messages, "stream": True}
    headers = {"authorization": f"Bearer {network['key']}", "content-type": "application/json"}
    try:
        connection.request("POST", f"{url.path}/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.headers, answer.read().decode()
    finally:
        connection.close()


def test_cut_stream_ends_with_an_error_and_without_done(models, network, script):
    head, text = raw_stream(network, models["scripted"], script("cut").messages)
    assert head["content-type"].startswith("text/event-stream")
    assert head["cache-control"] == "no-cache"
    assert head["x-request-id"]
    assert "[DONE]" not in text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert set(events[-1]["error"]) == {"message", "type", "param", "code"}, events[-1]
    assert events[-1]["error"]["type"] == "server_error"
    assert not any("error" in event for event in events[:-1])


def test_whole_stream_ends_with_done_once(models, network, script):
    _, text = raw_stream(network, models["scripted"], script("hello").messages)
    assert text.endswith("\n\ndata: [DONE]\n\n")
    assert text.count("[DONE]") == 1


def test_cut_answer_that_is_not_streamed_is_an_error(client, models, script):
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(
            model=models["scripted"], messages=script("cut").messages
        )
    assert caught.value.type == "server_error"


@pytest.mark.parametrize("stream", [True, False])
def test_caller_who_leaves_frees_the_node_within_a_second(client, models, script, stream):
    held = script("hold")
    if stream:
        answer = client.chat.completions.create(
            model=models["scripted"], messages=held.messages, stream=True
        )
        for _ in zip(range(3), answer):
            pass
        left = time.time()
        answer.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.5).chat.completions.create(
                model=models["scripted"], messages=held.messages
            )
        left = time.time()
    assert held.wait_for("left") - left < 1.0
