"""Compare the quantizer's own log-probabilities of a text with those of the server. Runs in the loader's pod.

    python - FOLDER URL MODEL < agreement.py

Prints a JSON object: `own` and `served`, the log-probability of each token after the first.
"""

import json
import sys
import urllib.request
from pathlib import Path

import torch
from transformers import AutoTokenizer

from saffron_quantizer.models.stream import ModelStream

TEXT = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, this "
    "truth is so well fixed in the minds of the surrounding families, that he is considered as the rightful property "
    "of some one or other of their daughters. The capital of France is Paris, and the capital of Germany is Berlin. "
    "Water boils at one hundred degrees, and a week has seven days: Monday, Tuesday, Wednesday, Thursday, Friday, "
    "Saturday and Sunday."
)


def own(folder: str, tokens: list[int]) -> list[float]:
    """Compute the log-probabilities as the quantizer's evaluation does."""
    with torch.inference_mode():
        model = ModelStream.open(Path(folder))
        (hidden,) = model.final_hidden([torch.tensor(tokens)])
        log_probabilities = torch.log_softmax(model.logits(hidden).float(), dim=-1)  # [T, vocabulary]
        following = torch.tensor(tokens[1:])[:, None]
        return log_probabilities[:-1].gather(1, following)[:, 0].tolist()


def served(url: str, model: str, tokens: list[int]) -> list[float]:
    """Ask the server for the same log-probabilities."""
    body = {"model": model, "prompt": tokens, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode())  # noqa: S310 - our own Service
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310 - as above
        (choice,) = json.load(response)["choices"]
    pairs = zip(tokens[1:], choice["prompt_logprobs"][1:], strict=True)
    return [entry[str(token)]["logprob"] for token, entry in pairs]


if __name__ == "__main__":
    folder, url, model = sys.argv[1:]
    tokens = AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    print(json.dumps({"own": own(folder, tokens), "served": served(url, model, tokens)}))  # noqa: T201 - it is a program
