"""Drives Lockgate through the official OpenAI SDK; run by sdk.rs with base URL and key set."""

import sys

import openai

import common


def raises(kind, call):
    return common.raises(openai.APIError, kind, call)


def ask(client, prompt, model="mock", **more):
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], **more
    )


def answers(client):
    whole = ask(client, "mock:tokens=3")
    assert whole.choices[0].message.content == "tok0 tok1 tok2 ", whole
    assert whole.choices[0].finish_reason == "stop", whole
    assert whole.usage.completion_tokens == 3, whole
    assert whole._request_id.startswith("req_"), whole._request_id

    chunks = list(ask(client, "mock:tokens=4", stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "tok0 tok1 tok2 tok3 ", text
    assert len({chunk.id for chunk in chunks}) == 1, chunks
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 4, chunks[-1]
    plain = list(ask(client, "mock:tokens=4", stream=True))
    assert all(chunk.usage is None for chunk in plain), plain

    models = [model.id for model in client.models.list()]
    assert sorted(models) == ["demo", "limited", "mock"], models
    assert client.models.retrieve("demo").id == "demo"

    bad = raises(openai.BadRequestError, lambda: ask(client, "x", temperature=7))
    assert bad.param == "temperature", bad.param
    refused = raises(openai.BadRequestError, lambda: ask(client, "mock:status=400"))
    assert refused.status_code == 400
    raises(openai.NotFoundError, lambda: ask(client, "x", model="no-such-model"))
    limited = raises(openai.RateLimitError, lambda: ask(client, "x", model="limited"))
    assert limited.response.headers["retry-after"], limited.response.headers
    stranger = client.with_options(api_key="lg_0000000000000000_" + "0" * 43)
    unknown = raises(openai.AuthenticationError, lambda: ask(stranger, "x"))
    assert unknown.code == "invalid_api_key", unknown.code
    broken = raises(openai.InternalServerError, lambda: ask(client, "mock:status=500"))
    assert broken.status_code == 502, broken.status_code
    assert broken.response.headers["x-should-retry"] == "false", broken.response.headers
    # A stream that is cut after its first token is an exception, never a clean end.
    stream = ask(client, "mock:tokens=9,cut,after=3,hold=2", stream=True)
    cut = raises(openai.APIError, lambda: list(common.released(stream, stream.response)))
    assert cut.code == "upstream_cut", cut


def overloaded(client):
    error = raises(openai.InternalServerError, lambda: ask(client, "x"))
    assert error.status_code == 503 and error.code == "overloaded", error
    assert int(error.response.headers["retry-after"]) >= 1, error.response.headers


if __name__ == "__main__":
    sdk = openai.OpenAI(max_retries=0, timeout=30)
    {"answers": answers, "overloaded": overloaded}[sys.argv[1]](sdk)
