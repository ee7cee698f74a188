"""What vLLM on the CPU goes on with, greedily. Usage: PROMPTS.json NEW_TOKENS FOLDER...

PROMPTS.json has a list of token ids for each prompt. Prints a line of JSON for each folder: of each prompt the `tokens`
and `gaps`, by how much the log-probability of the most likely token was above the second at each of them; or a string
that says why it is not served.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

# One process for all: to start one takes longer than to serve.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory


def greedy(folder: str, prompts: list[list[int]], new_tokens: int) -> list[dict[str, list[Any]]]:
    """Tokens and gaps of each prompt, asked one after the other, so that none shares a batch."""
    longest = max(map(len, prompts)) + new_tokens
    # Without a tokenizer, which it would copy, at seconds each time.
    options = {"enforce_eager": True, "max_num_seqs": 1, "skip_tokenizer_init": True}
    engine = LLM(folder, dtype="bfloat16", max_model_len=longest, **options)
    parameters = SamplingParams(max_tokens=new_tokens, temperature=0, logprobs=2, detokenize=False)
    answers = []
    for prompt in prompts:
        (answer,) = engine.generate([{"prompt_token_ids": prompt}], parameters)
        (output,) = answer.outputs
        pairs = [sorted((entry.logprob for entry in each.values()), reverse=True) for each in output.logprobs]
        answers.append({"tokens": list(output.token_ids), "gaps": [pair[0] - pair[1] for pair in pairs]})
    return answers


def main() -> None:
    """Serve one folder after the other."""
    prompts = json.loads(Path(sys.argv[1]).read_text())
    for folder in sys.argv[3:]:
        try:
            told: Any = greedy(folder, prompts, int(sys.argv[2]))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is told
            told = f"{type(error).__name__}: {error}".splitlines()[0]
        sys.__stdout__.write(f"{json.dumps(told)}\n")
        sys.__stdout__.flush()
        gc.collect()
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    main()
