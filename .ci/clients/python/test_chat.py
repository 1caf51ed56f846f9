import pytest

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "city",
        "strict": True,
        "schema": {"type": "object", "properties": {"name": {"type": "string"}}},
    },
}


def text_of(stream):
    return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)


def test_engine_answers(client, models):
    answer = client.chat.completions.create(model=models["engine"], messages=QUESTION)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-"), answer.id
    assert answer.model == models["engine"]
    (choice,) = answer.choices
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert choice.message.content == ANSWER
    assert choice.finish_reason == "stop"
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_engine_streams_the_same_answer(client, models):
    stream = client.chat.completions.create(
        model=models["engine"], messages=QUESTION, stream=True
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == ANSWER
    assert len(chunks) > 3, "the answer came in one piece"
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1
    reasons = [c.choices[0].finish_reason for c in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert all(c.usage is None for c in chunks)


def test_usage_comes_in_a_last_chunk_when_asked_for(client, models):
    ask = {"model": models["engine"], "messages": QUESTION}
    whole = client.chat.completions.create(**ask)
    chunks = list(
        client.chat.completions.create(
            **ask, stream=True, stream_options={"include_usage": True}
        )
    )
    assert all(c.usage is None for c in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_stop_ends_the_answer_before_its_text(client, models):
    for stop in (" Paris", [" of", " Paris"]):
        ask = {"model": models["engine"], "messages": QUESTION, "stop": stop}
        expected = "The capital" if isinstance(stop, list) else "The capital of France is"
        answer = client.chat.completions.create(**ask)
        assert answer.choices[0].message.content == expected
        assert answer.choices[0].finish_reason == "stop"
        assert text_of(client.chat.completions.create(**ask, stream=True)) == expected


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_limit_of_tokens_ends_the_answer(client, models, name):
    ask = {"model": models["engine"], "messages": QUESTION, name: 2}
    answer = client.chat.completions.create(**ask)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 2
    assert ANSWER.startswith(answer.choices[0].message.content)
    *_, last = client.chat.completions.create(**ask, stream=True)
    assert last.choices[0].finish_reason == "length"


def test_text_completion_is_answered(client, models):
    ask = {"model": models["engine"], "prompt": "The capital of France", "max_tokens": 4}
    whole = client.completions.create(**ask)
    assert whole.object == "text_completion"
    assert whole.choices[0].finish_reason in ("length", "stop")
    streamed = client.completions.create(**ask, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole.choices[0].text


def test_other_server_answers_through_its_node(client, models, network, script):
    answer = client.chat.completions.create(
        model=models["scripted"], messages=script("hello").messages
    )
    assert answer.model == models["scripted"]
    assert answer.choices[0].message.content == network["greeting"]
    assert answer.usage.to_dict() == network["usage"]


def test_other_server_streams_through_its_node(client, models, network, script):
    chunks = list(
        client.chat.completions.create(
            model=models["scripted"],
            messages=script("hello").messages,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert text_of(chunks) == network["greeting"]
    assert chunks[-1].usage.to_dict() == network["usage"]


@pytest.mark.parametrize("stream", [False, True])
def test_request_reaches_the_server_unchanged(client, models, network, script, stream):
    script = script("tool")
    request = {
        "model": models["scripted"],
        "messages": [{"role": "system", "content": "Be brief. ä\"\\\n"}, *script.messages],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "response_format": SCHEMA,
        "temperature": 0.25,
        "top_p": 0.5,
        "stop": ["END"],
        "max_tokens": 77,
        "seed": 7,
        "user": "somebody",
    }
    extra = {"top_k": 40, "chat_template_kwargs": {"thinking": False}}
    answer = client.chat.completions.create(**request, stream=stream, extra_body=extra)
    list(answer)
    received = script.recorded()["body"]
    assert received.pop("stream") is stream
    received.pop("stream_options", None)
    if network["privacy"] == "sealed":
        # What is left of one caller's prompt would show in the times of another's.
        assert received.pop("cache_prompt") is False
    assert received == {**request, **extra}


def test_tool_call_comes_back(client, models, script):
    answer = client.chat.completions.create(
        model=models["scripted"], messages=script("tool").messages, tools=[TOOL]
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.id, call.function.name) == ("call_1", "weather")
    assert call.function.arguments == '{"city":"Paris"}'


def test_tool_call_is_streamed_in_fragments(client, models, script):
    chunks = list(
        client.chat.completions.create(
            model=models["scripted"],
            messages=script("tool").messages,
            tools=[TOOL],
            stream=True,
        )
    )
    deltas = [c.choices[0].delta for c in chunks]
    calls = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
    assert (calls[0].index, calls[0].id, calls[0].function.name) == (0, "call_1", "weather")
    assert "".join(call.function.arguments for call in calls) == '{"city":"Paris"}'
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_answers_name_their_request_and_node(client, models, script):
    raw = client.chat.completions.with_raw_response.create(
        model=models["scripted"], messages=script("hello").messages
    )
    assert raw.headers["x-request-id"] == raw.parse()._request_id
    assert raw.headers["x-iris-node"]
