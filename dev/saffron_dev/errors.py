"""The one error that reaches a person: a sentence that says what was wrong and what to do."""


class DevError(Exception):
    """The cluster can't be built or started on this machine as it is; the message says what to do."""
