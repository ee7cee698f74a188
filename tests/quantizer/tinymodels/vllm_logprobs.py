"""Load checkpoints with vLLM and print for each the log-probabilities of a prompt, as a line of JSON.

    VLLM_ENABLE_V1_MULTIPROCESSING=0 python vllm_logprobs.py TOKEN,TOKEN,... FOLDER...

A line has `folder` and either `logprobs`, of each token after the first, or `error`.
"""

import gc
import json
import sys

from vllm import LLM, SamplingParams
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory


def logprobs(folder: str, tokens: list[int]) -> list[float]:
    """Load a checkpoint and ask once."""
    model = LLM(folder, dtype="bfloat16", enforce_eager=True, max_model_len=64, skip_tokenizer_init=True)
    try:
        sampling = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        (answer,) = model.generate({"prompt_token_ids": tokens}, sampling)
        pairs = zip(tokens[1:], answer.prompt_logprobs[1:], strict=True)
        return [entry[token].logprob for token, entry in pairs]
    finally:
        del model
        cleanup_dist_env_and_memory()
        gc.collect()


def main() -> None:
    """Print a line for each folder."""
    prompt, *folders = sys.argv[1:]
    tokens = [int(token) for token in prompt.split(",")]
    for folder in folders:
        try:
            answer = {"folder": folder, "logprobs": logprobs(folder, tokens)}
        except Exception as error:  # noqa: BLE001 - whatever an engine raises is its answer
            answer = {"folder": folder, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)  # noqa: T201 - it is a program


if __name__ == "__main__":
    main()
