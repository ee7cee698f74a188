"""Quantize with llm-compressor; runs in its own virtual environment. Usage: MODEL TOKENS.json RTN|GPTQ OUT."""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

model_folder, tokens_file, method, out = sys.argv[1:]
with Path(tokens_file).open() as file:
    tokens = json.load(file)
model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
tokenizer = AutoTokenizer.from_pretrained(model_folder)
settings = {"targets": "Linear", "scheme": "W4A16", "ignore": ["lm_head"]}
if method == "RTN":
    oneshot(model=model, tokenizer=tokenizer, recipe=QuantizationModifier(**settings))
else:
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in tokens]
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=Dataset.from_list(rows),
        recipe=GPTQModifier(**settings),
        num_calibration_samples=len(tokens),
        max_seq_length=len(tokens[0]),
        shuffle_calibration_samples=False,
    )
model.save_pretrained(out, save_compressed=True)
tokenizer.save_pretrained(out)
