"""A client that asks all the time, each time on a new connection and never twice. Runs in a pod, by itself.

    python client.py URL MODEL                    asks once and prints the answer
    python client.py URL MODEL SECONDS_BETWEEN    asks until it is ended

The latter prints one JSON line for each request: when it was asked, how long it took, and either who answered and
what, or what went wrong.
"""

import http.client
import json
import sys
import time
from urllib.parse import urlsplit

QUESTION = "The capital of France is Paris. The capital of Germany is"
_ANSWER_TOKENS = 8
_TIMEOUT_SECONDS = 60


def ask(url: str, model: str) -> dict[str, object]:
    """Ask once on a new connection.

    Args:
        url: The server's address, without a path.
        model: The name of the model in the request.

    Raises:
        OSError: Nothing came back.
        http.client.HTTPException: What came back is not HTTP, or its status is not 200.
        ValueError: The body is not JSON.
    """
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=_TIMEOUT_SECONDS)
    try:
        body = {"model": model, "prompt": QUESTION, "max_tokens": _ANSWER_TOKENS, "temperature": 0}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"status {response.status}: {content[:200].decode(errors='replace')}")
    finally:
        connection.close()
    answer = json.loads(content)
    return {"by": answer.get("system_fingerprint"), "text": answer["choices"][0]["text"]}


def ask_for_ever(url: str, model: str, pause: float) -> None:
    """Ask until the process is ended."""
    while True:
        asked, begun = time.time(), time.monotonic()
        try:
            outcome = ask(url, model)
        except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
            outcome = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"asked": asked, "seconds": time.monotonic() - begun, **outcome}), flush=True)
        time.sleep(pause)


if __name__ == "__main__":
    if len(sys.argv) > 3:  # noqa: PLR2004 - the third argument of the usage above
        ask_for_ever(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    else:
        print(ask(sys.argv[1], sys.argv[2])["text"])
