"""A reader of AutoAWQ's layout, which transformers reads only with a kernel for GPUs."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

OUTPUT_OF_PLACE = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring outputs each 4 bits of a word belong to, from the lowest on."""


def is_autoawq(folder: Path) -> bool:
    """Whether a folder's weights are laid out so."""
    config = json.loads((folder / "config.json").read_text())
    return bool(config.get("quantization_config", {}).get("quant_method") == "awq")


def load_autoawq(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model with its weights (q - z) · s."""
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    tensors = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    modules = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    packed = {f"{module}.{part}" for module in modules for part in ("qweight", "qzeros", "scales")}
    state = {name: tensor for name, tensor in tensors.items() if name not in packed}
    state |= {f"{module}.weight": _weight(tensors, module) for module in modules}
    lacking, unknown = model.load_state_dict(state, strict=False)
    assert set(lacking) <= {"lm_head.weight"}, lacking  # that is the embedding
    assert not unknown, unknown
    model.tie_weights()
    return model


def _weight(tensors: dict[str, Tensor], module: str) -> Tensor:
    """Codes [I, O/8], zero points [I/g, O/8] and scales [I/g, O] as one matrix [O, I]."""
    codes, zeros = (_unpacked(tensors[f"{module}.{part}"]) for part in ("qweight", "qzeros"))
    each = len(codes) // len(zeros)
    scales = tensors[f"{module}.scales"].float().repeat_interleave(each, dim=0)
    return ((codes - zeros.repeat_interleave(each, dim=0)) * scales).T


def _unpacked(words: Tensor) -> Tensor:
    """[N, O/8] int32 -> [N, O] int32."""
    codes = torch.empty(*words.shape, 8, dtype=torch.int32)
    for place, output in enumerate(OUTPUT_OF_PLACE):
        codes[:, :, output] = words >> (4 * place) & 0xF
    return codes.reshape(len(words), -1)
