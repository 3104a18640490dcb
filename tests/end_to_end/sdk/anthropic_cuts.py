"""The official Anthropic SDK with models whose first deployment cuts every stream; run by sdk.rs with base URL and key set."""

import anthropic

import common

WHOLE = "".join(f"tok{number} " for number in range(9))
GUARDED = {"lockgate-guarded": "true"}


def asked(model, prompt="mock:tokens=9"):
    return {
        "model": model,
        "max_tokens": 64,
        "messages": [{"role": "user", "content": prompt}],
    }


def assert_whole(client, model, **more):
    """A stream is one whole message, event by event and as the SDK puts it together."""
    events = list(client.messages.create(stream=True, **asked(model), **more))
    kinds = [event.type for event in events if event.type != "content_block_delta"]
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ], events
    deltas = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert "".join(deltas) == WHOLE, events
    with client.messages.stream(**asked(model), **more) as stream:
        message = stream.get_final_message()
    (block,) = message.content
    assert block.text == WHOLE and message.stop_reason == "end_turn", message


def joined(client, model):
    assert_whole(client, model)


def guarded(client, model):
    assert_whole(client, model, extra_headers=GUARDED)


def cut(client, model):
    """What came is delivered; the end is an exception."""
    events = []

    def read():
        stream = client.messages.create(stream=True, **asked(model, "mock:tokens=9,hold=2"))
        for event in common.released(stream, stream.response):
            events.append(event)

    common.raises(anthropic.APIError, anthropic.APIStatusError, read)
    deltas = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert "".join(deltas) == "tok0 tok1 tok2 ", events
    assert events[-1].type == "content_block_delta", events


PARTS = [joined, guarded, cut]

if __name__ == "__main__":
    sdk = anthropic.Anthropic(max_retries=0, timeout=30)
    common.run(sdk, {part.__name__: part for part in PARTS})
