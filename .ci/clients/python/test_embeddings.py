import math

import openai
import pytest


def test_texts_become_vectors(client, models):
    texts = ["What is 2 + 3?", "A node is a machine that joins the network."]
    answer = client.embeddings.create(model=models["engine"], input=texts)
    assert answer.object == "list" and answer.model == models["engine"]
    assert [entry.index for entry in answer.data] == [0, 1]
    for entry in answer.data:
        assert math.isclose(math.hypot(*entry.embedding), 1.0, rel_tol=1e-4)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 10


def test_floats_and_base64_are_the_same(client, models):
    asked = {"model": models["engine"], "input": "What is 2 + 3?"}
    packed = client.embeddings.create(**asked).data[0].embedding
    floats = client.embeddings.create(**asked, encoding_format="float").data[0].embedding
    assert len(packed) == len(floats) > 0
    assert all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(packed, floats))


def test_what_cannot_be_done_is_refused(client, models):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=models["engine"], input="a", dimensions=3)
    assert caught.value.param == "dimensions"
