"""Where a running engine is and what it calls a candidate."""

from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from saffron_api.model import ApiModel

_Text = StringConstraints(min_length=1, max_length=1024)


def address(url: str) -> SplitResult:
    """The parts of an engine's URL.

    Raises:
        ValueError: it is none, or has more in it than scheme, host, port and path, as a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("is not a URL such as http://host:8000/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("has more than a scheme, host, port and path")
    _ = parts.port  # a ValueError for one that is no port
    return parts


def _checked(url: str) -> str:
    address(url)
    return url


class Engine(ApiModel):
    """A running engine that the candidate's log-probabilities are asked of."""

    url: Annotated[str, _Text, AfterValidator(_checked)] = Field(description="Its API, as http://host:8000/v1.")
    model: Annotated[str, _Text] = Field(description="The name under which it serves the candidate.")
