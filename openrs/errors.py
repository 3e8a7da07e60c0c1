"""The two kinds of failure that a person is told about in one line; anything else is a traceback."""


class OpenRSError(Exception):
    """Something did not work. The message is one line that says what to do about it. CLI exit code 1."""

    exit_code = 1


class BadInput(OpenRSError):
    """What the user wrote cannot be used: the message names the field, the value and the way out. CLI exit code 2."""

    exit_code = 2
