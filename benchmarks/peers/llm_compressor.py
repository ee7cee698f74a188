"""Quantize with llm-compressor; runs in its own virtual environment. Usage: MODEL TOKENS.json RECIPE OUT."""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

W4A16 = {"targets": "Linear", "scheme": "W4A16", "ignore": ["lm_head"]}
W4A16_ASYM = {**W4A16, "scheme": "W4A16_ASYM"}
W8A8 = {"targets": "Linear", "scheme": "W8A8", "ignore": ["lm_head"]}
# Recipes without data, and those that read the calibration tokens.
PLAIN = {"RTN": lambda: [QuantizationModifier(**W4A16)], "W8A8": lambda: [QuantizationModifier(**W8A8)]}
CALIBRATED = {
    "GPTQ": lambda: [GPTQModifier(**W4A16)],
    "AWQ": lambda: [AWQModifier(), QuantizationModifier(**W4A16)],
    "AWQ_ASYM": lambda: [AWQModifier(), QuantizationModifier(**W4A16_ASYM)],
}

model_folder, tokens_file, recipe, out = sys.argv[1:]
# AWQ pins its activations for a copy to an accelerator, which a CPU has none of.
torch.Tensor.pin_memory = lambda self, *_, **__: self
with Path(tokens_file).open() as file:
    tokens = json.load(file)
model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
tokenizer = AutoTokenizer.from_pretrained(model_folder)
if recipe in PLAIN:
    oneshot(model=model, tokenizer=tokenizer, recipe=PLAIN[recipe]())
else:
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in tokens]
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=Dataset.from_list(rows),
        recipe=CALIBRATED[recipe](),
        num_calibration_samples=len(tokens),
        max_seq_length=len(tokens[0]),
        shuffle_calibration_samples=False,
    )
model.save_pretrained(out, save_compressed=True)
tokenizer.save_pretrained(out)
