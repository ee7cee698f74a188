"""Log-probabilities of a text as vLLM serves a checkpoint on the CPU. Usage: FOLDER TOKENS.json."""

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams

if __name__ == "__main__":  # vLLM starts processes that import this file again
    folder, tokens_file = sys.argv[1:]
    tokens = json.loads(Path(tokens_file).read_text())
    engine = LLM(folder, dtype="bfloat16", max_model_len=len(tokens) + 32, enforce_eager=True)
    parameters = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    (answer,) = engine.generate([{"prompt_token_ids": tokens}], parameters)
    found = [entry[token].logprob for token, entry in zip(tokens[1:], answer.prompt_logprobs[1:], strict=True)]
    print(json.dumps(found))
