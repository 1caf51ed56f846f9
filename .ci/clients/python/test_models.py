import openai
import pytest


def test_list_has_every_model_with_its_members(client, models):
    listed = {model.id: model for model in client.models.list()}
    assert {models["engine"], models["scripted"], models["single"]} <= listed.keys()
    for model in listed.values():
        assert model.object == "model", model
        assert isinstance(model.created, int) and model.created > 0, model
        assert isinstance(model.owned_by, str), model


@pytest.mark.parametrize("kind", ["engine", "scripted"])
def test_model_is_found_by_its_name(client, models, kind):
    model = client.models.retrieve(models[kind])
    assert model.id == models[kind]


def test_name_with_an_unencoded_slash_is_found(client, models):
    model = client.get(f"/models/{models['scripted']}", cast_to=openai.types.Model)
    assert model.id == models["scripted"]


def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"
