"""Perplexity of a folder in transformers, the judge of all: MODEL TOKENS.json; each row is a window of its own."""

import json
import math
import sys
from pathlib import Path

import torch
from autoawq import is_autoawq, load_autoawq
from transformers import AutoModelForCausalLM

folder = Path(sys.argv[1])
read = load_autoawq if is_autoawq(folder) else AutoModelForCausalLM.from_pretrained
model = read(folder, dtype=torch.bfloat16).eval()
total, count = 0.0, 0
with torch.no_grad():
    for row in json.loads(Path(sys.argv[2]).read_text()):
        tokens = torch.tensor(row)
        logits = model(tokens[None]).logits[0]  # the whole model: its first call is what decompresses the weights
        for begin in range(0, len(tokens) - 1, 256):
            end = min(begin + 256, len(tokens) - 1)
            wanted = tokens[begin + 1 : end + 1]
            total += torch.nn.functional.cross_entropy(logits[begin:end].float(), wanted, reduction="sum").item()
            count += end - begin
print(math.exp(total / count))
