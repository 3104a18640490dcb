"""What the scripts of all SDKs share."""

import os
import sys
import urllib.request


def released(stream, response):
    """The parts of a stream that the mock holds until the first of them is here, so that what comes after is not its beginning."""
    for number, part in enumerate(stream):
        if number == 0:
            url = f"{os.environ['MOCK_URL']}/_mock/release?id={response.headers['x-request-id']}"
            urllib.request.urlopen(urllib.request.Request(url, method="POST")).close()
        yield part


def raises(base, kind, call):
    """Calls `call`, which must raise exactly `kind`, one of the errors under `base`, and returns what it raised."""
    try:
        call()
    except base as error:
        assert type(error) is kind, f"{type(error).__name__} instead of {kind.__name__}: {error}"
        return error
    raise AssertionError(f"no {kind.__name__}")


def run(client, parts):
    """Runs the parts that the command line asks for, as in `model=chat,tools other=chat`."""
    for argument in sys.argv[1:]:
        model, names = argument.split("=")
        for name in names.split(","):
            try:
                parts[name](client, model)
            except Exception as error:
                error.add_note(f"in `{name}` of `{model}`")
                raise
