"""Tiny random models of every architecture, saved as any model is."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from tinymodels.configs import SPECIAL, TINY

TinyModel = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Makes the folder of a tiny model: of an architecture, a stored type and any config fields."""
    made: dict[str, Path] = {}

    def make(architecture: str = "Llama", *, dtype: torch.dtype = torch.float32, **fields: Any) -> Path:
        key = repr((architecture, dtype, sorted(fields.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(architecture)
            settings = {**TINY, **SPECIAL[architecture], **fields}
            config = getattr(transformers, f"{architecture}Config")(**settings)
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() == 1:
                        # Norm gains and biases begin as constants, which would hide a part that was left out.
                        parameter.add_(0.1 * torch.randn_like(parameter))
                    elif not parameter.any():
                        # Some routers begin as zeros.
                        parameter.normal_(std=TINY["initializer_range"])
            model.to(dtype).save_pretrained(made[key])
        return made[key]

    return make


SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>", "<end>")
CHAT_TEMPLATE = "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}> {{ m['content'] | trim }} <end> {% endfor %}"


@pytest.fixture(scope="session")
def speaking_model(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a tokenizer of the words w7 to w96, which are their own ids, and a chat template."""
    folder = tmp_path_factory.mktemp("speaking") / "model"
    shutil.copytree(tiny_model(), folder)
    words = [*SPECIAL_TOKENS, *(f"w{number}" for number in range(len(SPECIAL_TOKENS), TINY["vocab_size"]))]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=SPECIAL_TOKENS[3]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    named = {f"{word[1:-1]}_token": word for word in SPECIAL_TOKENS[:4]}
    others = list(SPECIAL_TOKENS[4:])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **named, additional_special_tokens=others, chat_template=CHAT_TEMPLATE
    ).save_pretrained(folder)
    return folder
