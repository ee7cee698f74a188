"""Quantize with Saffron. Usage: MODEL TOKENS.json RTN|GPTQ OUT."""

import json
import sys
from pathlib import Path

import torch

from saffron_api.candidate import CandidateSpec
from saffron_quantizer.progress import ignore
from saffron_quantizer.quantize import quantize

model_folder, tokens_file, method, out = sys.argv[1:]
quantize(
    model=Path(model_folder),
    sequences=[torch.tensor(row) for row in json.loads(Path(tokens_file).read_text())],
    spec=CandidateSpec.model_validate({"method": method, "scheme": "W4A16"}),
    store=None,
    out=Path(out),
    work=None,
    model_digest=None,
    data_digest=None,
    progress=ignore,
)
