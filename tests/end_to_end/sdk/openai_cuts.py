"""The official OpenAI SDK with models whose first deployment cuts every stream; run by sdk.rs with base URL and key set."""

import openai

import common

WHOLE = "".join(f"tok{number} " for number in range(9))
GUARDED = {"lockgate-guarded": "true"}


def asked(model, prompt="mock:tokens=9"):
    return {"model": model, "messages": [{"role": "user", "content": prompt}]}


def assert_whole(client, model, **more):
    """A stream is the whole answer, chunk by chunk and as the SDK puts it together."""
    chunks = list(client.chat.completions.create(stream=True, **asked(model), **more))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    assert text == WHOLE, chunks
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"], chunks
    assert len({chunk.id for chunk in chunks}) == len({chunk.model for chunk in chunks}) == 1, chunks
    with client.chat.completions.stream(**asked(model), **more) as events:
        (choice,) = events.get_final_completion().choices
    assert choice.message.role == "assistant", choice
    assert choice.message.content == WHOLE, choice
    assert choice.finish_reason == "stop", choice


def joined(client, model):
    assert_whole(client, model)


def guarded(client, model):
    assert_whole(client, model, extra_headers=GUARDED)


def cut(client, model):
    """What came is delivered; the end is an exception."""
    chunks = []

    def read():
        held = asked(model, "mock:tokens=9,hold=2")
        stream = client.chat.completions.create(stream=True, **held)
        for chunk in common.released(stream, stream.response):
            chunks.append(chunk)

    error = common.raises(openai.APIError, openai.APIError, read)
    assert error.code == "upstream_cut", error
    choices = [chunk.choices[0] for chunk in chunks]
    assert "".join(choice.delta.content or "" for choice in choices) == "tok0 tok1 tok2 ", chunks
    assert not any(choice.finish_reason for choice in choices), chunks


PARTS = [joined, guarded, cut]

if __name__ == "__main__":
    sdk = openai.OpenAI(max_retries=0, timeout=30)
    common.run(sdk, {part.__name__: part for part in PARTS})
