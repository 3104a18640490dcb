"""The official Anthropic SDK with models of every kind of provider; run by sdk.rs with base URL and key set."""

import anthropic

import common

WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
CALL = {"role": "user", "content": "What is the weather? mock:tool=get_weather"}


def arguments(model, prompt, **more):
    return {
        "model": model,
        "max_tokens": 64,
        "messages": [{"role": "user", "content": prompt}],
        **more,
    }


def ask(client, model, prompt, **more):
    return client.messages.create(**arguments(model, prompt, **more))


def raises(kind, call):
    return common.raises(anthropic.APIError, kind, call)


def messages(client, model):
    whole = ask(client, model, "mock:tokens=3,prompt_tokens=11,cached=4", system="Be brief.")
    assert whole.type == "message" and whole.role == "assistant", whole
    (block,) = whole.content
    assert block.type == "text" and block.text == "tok0 tok1 tok2 ", whole
    assert whole.stop_reason == "end_turn", whole
    usage = whole.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (7, 4, 3), usage
    short = ask(client, model, "mock:tokens=1,finish=length")
    assert short.stop_reason == "max_tokens", short


def stream(client, model):
    with client.messages.stream(**arguments(model, "mock:tokens=4")) as events:
        text = list(events.text_stream)
        final = events.get_final_message()
    assert "".join(text) == "tok0 tok1 tok2 tok3 ", text
    assert final.content[0].text == "tok0 tok1 tok2 tok3 ", final
    assert final.stop_reason == "end_turn", final
    assert final.usage.output_tokens == 4, final.usage
    raw = [event.type for event in ask(client, model, "mock:tokens=2", stream=True)]
    assert raw[0] == "message_start" and raw[-2:] == ["message_delta", "message_stop"], raw
    assert raw.count("content_block_start") == raw.count("content_block_stop") == 1, raw


def tools(client, model):
    whole = client.messages.create(model=model, max_tokens=64, messages=[CALL], tools=[WEATHER])
    answer(client, model, whole)
    with client.messages.stream(
        model=model, max_tokens=64, messages=[CALL], tools=[WEATHER]
    ) as events:
        pieces = [event.partial_json for event in events if event.type == "input_json"]
        streamed = events.get_final_message()
    assert "".join(pieces).replace(" ", "") == '{"city":"Paris"}', pieces
    answer(client, model, streamed)


def answer(client, model, called):
    """Answers the one call of `called`, and has its result told."""
    assert called.stop_reason == "tool_use", called
    (call,) = [block for block in called.content if block.type == "tool_use"]
    assert call.name == "get_weather" and call.input == {"city": "Paris"}, call
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny, 21 degrees"}
    told = client.messages.create(
        model=model,
        max_tokens=64,
        messages=[
            CALL,
            {"role": "assistant", "content": called.content},
            {"role": "user", "content": [result]},
        ],
        tools=[WEATHER],
    )
    assert told.content[0].text == "get_weather says sunny, 21 degrees ", told
    assert told.stop_reason == "end_turn", told


def thinking(client, model):
    prompt = "mock:think=2,tokens=2"
    whole = ask(client, model, prompt)
    with client.messages.stream(**arguments(model, prompt)) as events:
        streamed = events.get_final_message()
    for message in (whole, streamed):
        thought, text = message.content
        assert thought.type == "thinking" and thought.thinking == "thought0 thought1 ", message
        assert text.type == "text" and text.text == "tok0 tok1 ", message
        assert message.usage.output_tokens == 4, message.usage


def count(client, model):
    counted = client.messages.count_tokens(
        model=model, messages=[{"role": "user", "content": "mock:prompt_tokens=42"}]
    )
    assert counted.input_tokens == 42, counted


def estimate(client, model):
    """Where the provider cannot count, Lockgate estimates: more text, more tokens."""
    few, many = (
        client.messages.count_tokens(
            model=model, messages=[{"role": "user", "content": "hello there " * times}]
        ).input_tokens
        for times in (1, 100)
    )
    assert 0 < few < many, (few, many)


def errors(client, model):
    refused = raises(anthropic.BadRequestError, lambda: ask(client, model, "mock:status=400"))
    assert refused.type == "invalid_request_error", refused.body
    hot = {"temperature": 7}
    wrong = raises(anthropic.BadRequestError, lambda: ask(client, model, "x", extra_body=hot))
    assert wrong.type == "invalid_request_error", wrong.body
    broken = raises(anthropic.InternalServerError, lambda: ask(client, model, "mock:status=529"))
    assert broken.status_code == 502 and broken.type == "api_error", broken.body
    # A stream that is cut after its first token is an exception, never a clean end; nor when HTTP sees no cut.
    for cut in ("cut", "cut_cleanly"):
        prompt = f"mock:tokens=9,{cut},after=3,hold=2"
        # The status was 200 by then: the SDK has no class of its own for what comes after it.
        error = raises(anthropic.APIStatusError, lambda: read(client, model, prompt))
        assert error.type == "api_error", error.body


def read(client, model, prompt):
    """Reads a stream to its end."""
    with client.messages.stream(**arguments(model, prompt)) as events:
        for _ in common.released(events.text_stream, events.response):
            pass


def strangers(client, model):
    unknown = raises(anthropic.NotFoundError, lambda: ask(client, "no-such-model", "hello"))
    assert unknown.type == "not_found_error", unknown.body
    stranger = client.with_options(api_key="lg_0000000000000000_" + "0" * 43)
    refused = raises(anthropic.AuthenticationError, lambda: ask(stranger, model, "hello"))
    assert refused.type == "authentication_error", refused.body
    assert refused.request_id.startswith("req_"), refused.request_id


def limited(client, model):
    error = raises(anthropic.RateLimitError, lambda: ask(client, model, "hello"))
    assert error.type == "rate_limit_error", error.body
    assert int(error.response.headers["retry-after"]) >= 1, error.response.headers


def overloaded(client, model):
    error = raises(anthropic.ServiceUnavailableError, lambda: ask(client, model, "hello"))
    assert error.type == "overloaded_error", error.body
    assert int(error.response.headers["retry-after"]) >= 1, error.response.headers


PARTS = [
    messages,
    stream,
    tools,
    thinking,
    count,
    estimate,
    errors,
    strangers,
    limited,
    overloaded,
]

if __name__ == "__main__":
    sdk = anthropic.Anthropic(max_retries=0, timeout=30)
    common.run(sdk, {part.__name__: part for part in PARTS})
