"""What the scripts of all SDKs share."""

import sys


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
