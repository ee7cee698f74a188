"""Log-probabilities of a text as vLLM serves checkpoints on the CPU. Usage: TOKENS.json FOLDER...

Prints a line for each folder: a JSON list, or a JSON string that says why it is not served.
"""

import gc
import json
import os
import sys
from pathlib import Path

# One process for all: to start one takes longer than to serve.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory


def served(folder: str, tokens: list[int]) -> list[float]:
    """The log-probability of each token after the first."""
    engine = LLM(folder, dtype="bfloat16", max_model_len=len(tokens) + 32, enforce_eager=True)
    parameters = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    (answer,) = engine.generate([{"prompt_token_ids": tokens}], parameters)
    return [entry[token].logprob for token, entry in zip(tokens[1:], answer.prompt_logprobs[1:], strict=True)]


def main() -> None:
    """Serve one folder after the other."""
    tokens = json.loads(Path(sys.argv[1]).read_text())
    for folder in sys.argv[2:]:
        try:
            told: list[float] | str = served(folder, tokens)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the table is about
            told = f"{type(error).__name__}: {error}".splitlines()[0]
        sys.__stdout__.write(f"{json.dumps(told)}\n")
        sys.__stdout__.flush()
        gc.collect()
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    main()
