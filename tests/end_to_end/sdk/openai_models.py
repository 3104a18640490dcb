"""The official OpenAI SDK with models of every kind of provider; run by sdk.rs with base URL and key set."""

import json

import openai

import common

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CALL = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the weather? mock:tool=get_weather"},
]
USAGE = {"include_usage": True}
# The models that really answer: answers name these.
SERVED = {
    "openai": "gpt-4o",
    "azure": "my-gpt",
    "deepseek": "deepseek-chat",
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-2.5-pro",
}


def ask(client, model, prompt, **more):
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], **more
    )


def raises(kind, call):
    return common.raises(openai.APIError, kind, call)


def deltas(chunks):
    return [chunk.choices[0].delta for chunk in chunks if chunk.choices]


def text_of(chunks):
    return "".join(delta.content or "" for delta in deltas(chunks))


def finish_of(chunks):
    """The finish reason, which exactly one chunk has."""
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    (reason,) = [choice.finish_reason for choice in choices if choice.finish_reason]
    return reason


def chat(client, model):
    whole = ask(client, model, "mock:tokens=3,prompt_tokens=11,cached=4")
    assert whole.object == "chat.completion", whole
    assert whole.choices[0].message.content == "tok0 tok1 tok2 ", whole
    assert whole.choices[0].finish_reason == "stop", whole
    assert whole.usage.prompt_tokens == 11, whole
    assert whole.usage.completion_tokens == 3, whole
    assert whole.usage.total_tokens == 14, whole
    assert whole.usage.prompt_tokens_details.cached_tokens == 4, whole
    assert whole._request_id.startswith("req_"), whole._request_id
    assert whole.model == SERVED[model], whole.model
    short = ask(client, model, "mock:tokens=1,finish=length", max_completion_tokens=1)
    assert short.choices[0].finish_reason == "length", short


def stream(client, model):
    chunks = list(ask(client, model, "mock:tokens=4", stream=True, stream_options=USAGE))
    assert text_of(chunks) == "tok0 tok1 tok2 tok3 ", chunks
    assert deltas(chunks)[0].role == "assistant", chunks[0]
    assert finish_of(chunks) == "stop", chunks
    ((_, _, served),) = {(chunk.id, chunk.created, chunk.model) for chunk in chunks}
    assert served == SERVED[model], served
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 4, chunks[-1]
    assert all(chunk.usage is None for chunk in chunks[:-1]), chunks
    plain = list(ask(client, model, "mock:tokens=2,finish=length", stream=True))
    assert text_of(plain) == "tok0 tok1 ", plain
    assert finish_of(plain) == "length", plain
    assert all(chunk.usage is None for chunk in plain), plain
    # The SDK's own reader of streams, which gathers the answer.
    with client.chat.completions.stream(
        model=model, messages=[{"role": "user", "content": "mock:tokens=2"}]
    ) as events:
        final = events.get_final_completion()
    assert final.choices[0].message.content == "tok0 tok1 ", final


def tools(client, model):
    whole = client.chat.completions.create(model=model, messages=CALL, tools=[WEATHER])
    assert whole.choices[0].finish_reason == "tool_calls", whole
    message = whole.choices[0].message
    (call,) = message.tool_calls
    assert call.type == "function" and call.function.name == "get_weather", call
    assert json.loads(call.function.arguments) == {"city": "Paris"}, call
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 degrees"}
    answer = client.chat.completions.create(
        model=model, messages=[*CALL, message, result], tools=[WEATHER]
    )
    assert answer.choices[0].message.content == "get_weather says sunny, 21 degrees ", answer
    assert answer.choices[0].finish_reason == "stop", answer

    chunks = list(
        client.chat.completions.create(model=model, messages=CALL, tools=[WEATHER], stream=True)
    )
    assert finish_of(chunks) == "tool_calls", chunks
    pieces = [piece for delta in deltas(chunks) for piece in delta.tool_calls or []]
    assert {piece.index for piece in pieces} == {0}, pieces
    assert pieces[0].type == "function" and pieces[0].function.name == "get_weather", pieces[0]
    assert all(piece.id is None and piece.function.name is None for piece in pieces[1:]), pieces
    arguments = "".join(piece.function.arguments or "" for piece in pieces)
    assert json.loads(arguments) == {"city": "Paris"}, arguments
    called = {
        "role": "assistant",
        "tool_calls": [
            {
                "id": pieces[0].id,
                "type": "function",
                "function": {"name": "get_weather", "arguments": arguments},
            }
        ],
    }
    result["tool_call_id"] = pieces[0].id
    chunks = list(
        client.chat.completions.create(
            model=model, messages=[*CALL, called, result], tools=[WEATHER], stream=True
        )
    )
    assert text_of(chunks) == "get_weather says sunny, 21 degrees ", chunks
    assert finish_of(chunks) == "stop", chunks


def reasoning(client, model):
    whole = ask(client, model, "mock:think=2,tokens=2")
    message = whole.choices[0].message
    assert message.reasoning_content == "thought0 thought1 ", message
    assert message.content == "tok0 tok1 ", message
    assert whole.usage.completion_tokens == 4, whole.usage
    assert whole.usage.completion_tokens_details.reasoning_tokens == 2, whole.usage
    chunks = list(ask(client, model, "mock:think=2,tokens=2", stream=True))
    thoughts = [getattr(delta, "reasoning_content", None) for delta in deltas(chunks)]
    assert "".join(filter(None, thoughts)) == "thought0 thought1 ", chunks
    assert text_of(chunks) == "tok0 tok1 ", chunks
    said = [bool(delta.content) for delta in deltas(chunks)]
    assert not any(said[: said.index(True)]) and thoughts.index("thought0 ") < said.index(True), chunks


def deepseek_cache(client, model):
    prompt = "mock:tokens=2,prompt_tokens=9,cached=6"
    whole = ask(client, model, prompt)
    chunks = list(ask(client, model, prompt, stream=True, stream_options=USAGE))
    for usage in (whole.usage, chunks[-1].usage):
        assert usage.prompt_tokens == 9, usage
        assert usage.prompt_cache_hit_tokens == 6, usage
        assert usage.prompt_cache_miss_tokens == 3, usage


def embeddings(client, model):
    texts = ["one", "two words"]
    plain = client.embeddings.create(model=model, input=texts, encoding_format="float")
    vectors = [item.embedding for item in plain.data]
    assert [item.index for item in plain.data] == [0, 1], plain
    assert len(vectors[0]) == 16 and vectors[0] != vectors[1], vectors
    assert any(number < 0 for number in vectors[0]), vectors
    assert plain.usage.prompt_tokens == plain.usage.total_tokens == 7, plain.usage
    # Unless it is told otherwise the SDK asks for base64 and decodes it.
    encoded = client.embeddings.create(model=model, input=texts)
    assert [list(item.embedding) for item in encoded.data] == vectors, encoded
    short = client.embeddings.create(model=model, input="one", dimensions=4)
    assert len(short.data) == 1 and list(short.data[0].embedding) == vectors[0][:4], short


def token_embeddings(client, model):
    many = client.embeddings.create(model=model, input=[[1, 2, 3], [4]])
    assert len(many.data) == 2, many
    one = client.embeddings.create(model=model, input=[1, 2, 3])
    assert one.data[0].embedding == many.data[0].embedding, one


def completions(client, model):
    prompt = "Say it. mock:tokens=3"
    whole = client.completions.create(model=model, prompt=prompt, max_tokens=16)
    assert whole.object == "text_completion", whole
    assert whole.choices[0].text == "tok0 tok1 tok2 ", whole
    assert whole.choices[0].finish_reason == "stop", whole
    assert whole.usage.completion_tokens == 3, whole
    chunks = list(
        client.completions.create(model=model, prompt=prompt, max_tokens=16, stream=True)
    )
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.text for choice in choices) == "tok0 tok1 tok2 ", chunks
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"], chunks


def scripted(client, model):
    whole = ask(client, model, "hello there")
    assert whole.choices[0].message.content == "You said: hello there", whole
    chunks = list(ask(client, model, "hello there", stream=True, stream_options=USAGE))
    assert text_of(chunks) == "You said: hello there", chunks
    assert finish_of(chunks) == "stop", chunks
    bare = client.completions.create(model=model, prompt="hello there")
    assert bare.choices[0].text == "You said: hello there", bare
    texts = ["one", "two"]
    plain = client.embeddings.create(model=model, input=texts, dimensions=8, encoding_format="float")
    encoded = client.embeddings.create(model=model, input=texts, dimensions=8)
    for one, other in zip(plain.data, encoded.data, strict=True):
        # base64 has floats of 32 bits.
        assert len(one.embedding) == 8, one
        assert all(abs(a - b) < 1e-6 for a, b in zip(one.embedding, other.embedding)), other
    assert plain.data[0].embedding != plain.data[1].embedding, plain


def errors(client, model):
    refused = raises(openai.BadRequestError, lambda: ask(client, model, "mock:status=400"))
    assert refused.status_code == 400 and refused.type == "invalid_request_error", refused.body
    long = raises(openai.BadRequestError, lambda: ask(client, model, "mock:context_length"))
    assert long.code == "context_length_exceeded", long.body
    broken = raises(openai.InternalServerError, lambda: ask(client, model, "mock:status=500"))
    assert broken.status_code == 502, broken
    # A stream that is cut after its first token is an exception, never a clean end; nor when HTTP sees no cut.
    for cut in ("cut", "cut_cleanly"):
        stream = ask(client, model, f"mock:tokens=9,{cut},after=3,hold=2", stream=True)
        error = raises(openai.APIError, lambda: list(common.released(stream, stream.response)))
        assert error.code == "upstream_cut", error


def no_embeddings(client, model):
    """A model that makes no vectors says so."""
    error = raises(
        openai.BadRequestError, lambda: client.embeddings.create(model=model, input="one")
    )
    assert error.type == "invalid_request_error", error.body


def limited(client, model):
    error = raises(openai.RateLimitError, lambda: ask(client, model, "hello"))
    assert int(error.response.headers["retry-after"]) >= 1, error.response.headers


def wrong_key(client, model):
    """A provider that refuses Lockgate's key is no fault of the caller's."""
    error = raises(openai.InternalServerError, lambda: ask(client, model, "hello"))
    assert error.status_code == 502 and error.code == "upstream_credentials", error


PARTS = [
    chat,
    stream,
    tools,
    reasoning,
    deepseek_cache,
    embeddings,
    token_embeddings,
    completions,
    scripted,
    errors,
    no_embeddings,
    limited,
    wrong_key,
]

if __name__ == "__main__":
    sdk = openai.OpenAI(max_retries=0, timeout=30)
    common.run(sdk, {part.__name__: part for part in PARTS})
