"""A Llama of seven billion random parameters, quantized by RTN and GPTQ: how much memory it takes, and where time goes.

    python benchmarks/seven_billion.py [--blocks 32] [--folder DIR] [--activation-memory 64M]

The model has the shapes of Llama 2 7B and is made block by block on the disk, in bfloat16: 13.5 GB with all 32 blocks.
Calibration is 16 x 512 random tokens. Each method runs in a process of its own, and memory is the largest resident set
of that process, imports included. The folder is emptied at the end.
"""

import argparse
import cProfile
import json
import os
import pstats
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from saffron_api.candidate import CandidateSpec
from saffron_quantizer.checkpoint.writer import shard_name, write_index, write_json, write_tensors
from saffron_quantizer.cli.options import quantity_of_bytes
from saffron_quantizer.destination import OwnFolder
from saffron_quantizer.memory import peak_bytes
from saffron_quantizer.progress import Progress
from saffron_quantizer.quantize import quantize
from saffron_quantizer.quantize_request import QuantizeRequest

HIDDEN, INNER, HEADS, VOCABULARY = 4096, 11008, 32, 32000
SEQUENCES, LENGTH = 16, 512
SPECS = {
    method: CandidateSpec.model_validate({"method": method, "scheme": "W4A16", "groupSize": 128})
    for method in ("RTN", "GPTQ")
}
PARTS = {
    "forward": ("stream.py", "run"),
    "Hessian sums": ("hessian_cpu.py", "add_lower"),
    "factors": ("gptq.py", "factorize"),
    "rounding (GPTQ)": ("gptq.py", "gptq"),
    "rounding (RTN)": ("rtn.py", "rtn"),
    "packing": ("quantize_block.py", "store"),
    "waiting for a block to be read": ("alongside.py", "results"),
    "waiting for a block to be written": ("alongside.py", "give"),
}
"""What is told of the time: functions whose calls are counted with all that they call."""


def block_shapes(index: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a block of Llama 2 7B."""
    attention = {f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
    mlp = {f"mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
    norms = {f"{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    shapes = {**attention, **mlp, "mlp.down_proj.weight": (HIDDEN, INNER), **norms}
    return {f"model.layers.{index}.{name}": shape for name, shape in shapes.items()}


def make_model(folder: Path, blocks: int) -> int:
    """Write the model, one shard at a time. Returns its parameters."""
    outer = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    shards = [{**outer, "model.norm.weight": (HIDDEN,)}, *(block_shapes(index) for index in range(blocks))]
    generator = torch.Generator().manual_seed(0)
    sizes, parameters = {}, 0
    for number, shapes in enumerate(shards, start=1):
        tensors = {name: _random(shape, generator) for name, shape in shapes.items()}
        name = shard_name(number, len(shards))
        write_tensors(folder / name, tensors)
        sizes[name] = {each: tensor.nbytes for each, tensor in tensors.items()}
        parameters += sum(tensor.numel() for tensor in tensors.values())
    write_index(folder, sizes)
    write_json(folder / "config.json", config(blocks))
    return parameters


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)


def config(blocks: int) -> dict[str, object]:
    """What config.json says."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": blocks,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def run_one(method: str, model: Path, out: Path, activation_memory: int) -> None:
    """Quantize in this process, and print what it took as a line of JSON."""
    generator = torch.Generator().manual_seed(1)
    sequences = [torch.randint(3, VOCABULARY, (LENGTH,), generator=generator) for _ in range(SEQUENCES)]
    moments = [time.monotonic()]

    def note(step: Progress) -> None:
        moments.append(time.monotonic())
        peak = peak_bytes() / 1e9
        print(
            f"  {method}: block {step.done} of {step.total}, {moments[-1] - moments[-2]:.1f} s, peak {peak:.2f} GB",
            flush=True,
        )

    profile = cProfile.Profile()
    request = QuantizeRequest(model, SPECS[method], sequences, model_digest="0" * 64)
    result = profile.runcall(quantize, request, OwnFolder(out), note, activation_memory=activation_memory)
    spent = {}
    for (file, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        for part, (wanted_file, wanted_name) in PARTS.items():
            if (Path(file).name, name) == (wanted_file, wanted_name):
                spent[part] = spent.get(part, 0.0) + cumulative
    print(json.dumps({"seconds": result.seconds, "peak": result.peak_bytes, "bytes": result.bytes, "spent": spent}))


def main() -> None:
    """Make the model, run each method, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=32, help="blocks of the model (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="an empty or new folder (default: a temporary one)")
    parser.add_argument("--methods", nargs="+", choices=SPECS, default=list(SPECS))
    parser.add_argument("--activation-memory", type=quantity_of_bytes, default=quantity_of_bytes("64M"))
    parser.add_argument("--run", nargs=3, metavar=("METHOD", "MODEL", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        method, model, out = arguments.run
        run_one(method, Path(model), Path(out), arguments.activation_memory)
        return
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        measure(folder, arguments.blocks, arguments.methods, arguments.activation_memory)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, blocks: int, methods: list[str], activation_memory: int) -> None:
    """Run each method in a process of its own."""
    model = folder / "model"
    model.mkdir()
    parameters = make_model(model, blocks)
    print(f"{parameters / 1e9:.2f} billion parameters in {blocks} blocks, {SEQUENCES} x {LENGTH} tokens")
    print(f"CPU capability {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads,")
    print(f"load {os.getloadavg()[0]:.1f} at the start, torch {torch.__version__}\n", flush=True)
    for method in methods:
        command = [sys.executable, __file__, "--run", method, model, folder / "out"]
        command += ["--activation-memory", str(activation_memory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            lines = []
            for line in child.stdout:
                lines.append(line)
                if line.startswith(" "):
                    print(line, end="", flush=True)
        if child.returncode != 0:
            raise SystemExit(f"{method} failed with {child.returncode}")
        told = json.loads(lines[-1])
        print(f"{method}: {told['seconds']:.0f} s, {told['seconds'] / blocks:.1f} s a block, ", end="")
        print(f"largest resident set {told['peak'] / 1e9:.2f} GB, checkpoint {told['bytes'] / 1e9:.2f} GB")
        for part, seconds in sorted(told["spent"].items(), key=lambda item: -item[1]):
            print(f"  {part}: {seconds:.1f} s, {seconds / told['seconds']:.0%}")
        shutil.rmtree(folder / "out")


if __name__ == "__main__":
    main()
