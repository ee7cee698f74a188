"""What the kernels are worth to a whole GPTQ run on the CPU: Gemma 3 270M with each of them, and without.

    python benchmarks/kernels_in_gptq.py [--rounds 3] [--plain hessian gptq_block]

Quantizes the model to W4A16 g128 with 32 x 512 tokens in one process, again and again: as it is, with one operator in
plain torch (its reference), and with all of them so. In each round each way has its turn, and ratios are taken within
a round. What is timed begins when torch is imported. The machine must have nothing else to do.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import torch
from peers import spread, windows
from torch import Tensor

from saffron_api.candidate import CandidateSpec, Method, Scheme
from saffron_dev.gemma import fetch_gemma
from saffron_dev.prose import fetch_prose
from saffron_kernels.gptq_block import gptq_block_reference
from saffron_kernels.hessian import hessian_reference
from saffron_kernels.quantize_pack import pack_reference, quantize_pack_reference
from saffron_kernels.rms_norm import rms_norm_reference
from saffron_kernels.scale_search import scale_search_reference
from saffron_quantizer.destination import OwnFolder
from saffron_quantizer.progress import ignore
from saffron_quantizer.quantize import quantize
from saffron_quantizer.quantize_request import QuantizeRequest

SPEC = CandidateSpec(method=Method.GPTQ, scheme=Scheme.W4A16)
_QUANTIZER = "saffron_quantizer"
PLAIN: Mapping[str, Mapping[str, Callable[..., object]]] = {
    "hessian": {
        f"{_QUANTIZER}.models.calibration.hessian": hessian_reference,
        f"{_QUANTIZER}.algorithms.gptq.hessian": hessian_reference,
    },
    "gptq_block": {f"{_QUANTIZER}.algorithms.gptq.gptq_block": gptq_block_reference},
    "scale_search": {f"{_QUANTIZER}.algorithms.scales.scale_search": scale_search_reference},
    "quantize_pack": {
        f"{_QUANTIZER}.algorithms.scales.quantize_pack": quantize_pack_reference,
        f"{_QUANTIZER}.checkpoint.formats.compressed_tensors.pack": pack_reference,
    },
    "rms_norm": {"saffron_kernels.nn.rms_norm.rms_norm": rms_norm_reference},
    "attention": {f"{_QUANTIZER}.models.attention.has_fast_causal_attention": lambda *_heads: False},
}
"""For each operator what stands in for it where the quantizer calls it; for attention that is torch's own."""


def ways_without(operators: Sequence[str]) -> dict[str, dict[str, Callable[..., object]]]:
    """What is replaced in each way: nothing, each of these operators, and all of them."""
    each = {f"{name} in plain torch": dict(PLAIN[name]) for name in operators}
    together = {place: function for instead in each.values() for place, function in instead.items()}
    return {"as it is": {}, **each, "all of them": together}


def run(sequences: list[Tensor], instead: Mapping[str, Callable[..., object]]) -> float:
    """The seconds of a run in which other functions stand in for some."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as scratch:
        for place, function in instead.items():
            stack.enter_context(mock.patch(place, function))
        begun = time.perf_counter()
        request = QuantizeRequest(fetch_gemma(), SPEC, sequences, model_digest="0" * 64)
        quantize(request, OwnFolder(Path(scratch, "out")), ignore)
        return time.perf_counter() - begun


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default: %(default)s)")
    parser.add_argument(
        "--plain", nargs="+", choices=PLAIN, default=list(PLAIN), help="operators that are replaced (default: all)"
    )
    arguments = parser.parse_args()
    ways = ways_without(arguments.plain)
    fetch_prose()
    sequences = [torch.tensor(window) for window in windows(fetch_gemma(), "emma", 32, 512)]
    print(f"CPU capability {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads,")
    print(f"load {os.getloadavg()[0]:.1f} at the start, torch {torch.__version__}\n")
    run(sequences, {})  # loads compiled loops, and lets oneDNN make its own
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, instead in ways.items():
            seconds[name].append(run(sequences, instead))
    print(f"{'':30} {'seconds':24} times as long")
    for name, taken in seconds.items():
        ratios = [other / ours for other, ours in zip(taken, seconds["as it is"], strict=True)]
        print(f"{name:30} {spread(taken):24} {spread(ratios, '.2f')}", flush=True)


if __name__ == "__main__":
    main()
