"""What can go wrong between the operator and the cluster: a short tree, told apart by what to do about it.

- `ApiError`: the API server refused a call or could not be reached. The pass ends, and the next one starts after
  a back-off from what is then the case. Nothing is tried again inside a pass.
- `ConflictError`: an `ApiError` that says somebody wrote in between. The next pass sees what they wrote.
- `RefusedError`: an `ApiError` that says what was sent will not do, or may not be. The next passes tell it to people.
- `LeadershipLostError`: this process may not write any more. The process ends.
- `RestartError`: the process ends only to be started anew.
- `StartError`: the operator can't start as it was told to. The sentence says what to change.

What is wrong with a QuantizedModel is none of these: it is a condition in its status.
"""

from http.client import responses


class OperatorError(Exception):
    """The root of the tree."""


class ApiError(OperatorError):
    """A call to the API server failed.

    Attributes:
        status: The HTTP status, or 0 where there was no answer.
        reason: Kubernetes' word for it, as `Forbidden`.
    """

    def __init__(self, call: str, status: int, reason: str, message: str) -> None:
        super().__init__(f"{call}: {status} {reason}: {message}" if status else f"{call}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def kind(self) -> str:
        """A word of a closed set. `reason` is none: an admission webhook writes there what it likes."""
        return responses.get(self.status, "Other").replace(" ", "") if self.status else self.reason


class ConflictError(ApiError):
    """The object was changed, or made, by somebody else since it was read (HTTP 409)."""


class RefusedError(ApiError):
    """The API server does not take what was sent (HTTP 400, 403 and 422), or an admission webhook stands in the way."""


class LeadershipLostError(OperatorError):
    """The Lease could not be renewed in time, so another replica may have taken over."""


class RestartError(OperatorError):
    """The operator was started for less than it can do by now."""


class StartError(OperatorError):
    """The operator can't run with what it was given."""
