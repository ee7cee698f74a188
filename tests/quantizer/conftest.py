"""Tiny random models of every architecture, saved as any model is."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from tinymodels.checkpoints import checkpoint_of
from tinymodels.configs import SPECIAL, TINY

from saffron_api.candidate import CandidateSpec, Method, Scheme
from saffron_api.results import Figure, FigureName
from saffron_quantizer.report import Fingerprint, LayerRow, LinearRow, Machine, Report, Settings, Timings, unjudged

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


@pytest.fixture
def without_fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has models in bfloat16 computed in float32, as on a processor without instructions for it."""
    monkeypatch.setattr("saffron_quantizer.models.compute.has_fast_bfloat16", lambda: False)


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


@pytest.fixture(scope="session")
def speaking_checkpoint(speaking_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the speaking model in 4 bits."""
    folder = tmp_path_factory.mktemp("speaking-checkpoint") / "int4"
    checkpoint_of(speaking_model, CandidateSpec(method=Method.RTN, scheme=Scheme.W4A16, group_size=32), folder)
    return folder


class ForkServer:
    """Runs commands of `saffron` in processes forked from one that is ready for them: a start takes no seconds."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("fork_server.py")],
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start(self, argv: Sequence[object], *, environment: Mapping[str, str] | None = None, **kill: float) -> None:
        """Start a command; `operation` or `seconds` say when it is killed."""
        asked = {"argv": [str(word) for word in argv], "environment": dict(environment or {})}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({**asked, "operation": None, "seconds": None, **kill}) + "\n")
        self._process.stdin.flush()

    def wait(self) -> Any:
        """How it ended."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=30) == 0


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """The first such server."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def second_fork_server() -> Iterator[ForkServer]:
    """Another one, for what takes two processes at once."""
    server = ForkServer()
    yield server
    server.close()


MakeReport = Callable[..., Report]

_LINEARS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


def _layers(method: Method, blocks: int) -> list[LayerRow]:
    """Blocks of which every second has a dead column; only GPTQ's linears have notes."""
    linears = [
        LinearRow(name=name, relative_error=0.01 * (number + 1), largest_channel_ratio=3.0 + number, scale_search="MSE")
        for number, name in enumerate(_LINEARS)
    ]
    return [
        LayerRow(
            block=block,
            modules=3,
            max_damping=0.01 * (1 + block % 2) if method is Method.GPTQ else 0.0,
            dead_columns=block % 2 if method is Method.GPTQ else 0,
            linears=linears if method is Method.GPTQ else [],
        )
        for block in range(blocks)
    ]


@pytest.fixture(scope="session")
def make_report() -> MakeReport:
    """Makes a report that was measured on some conversations; `changes` replace whole fields."""

    def make(
        method: Method = Method.GPTQ,
        scheme: Scheme = Scheme.W4A16,
        *,
        size: int = 400,
        loss: float = 0.1,
        units: int = 60,
        engine: Any = None,
        **changes: Any,
    ) -> Report:
        ratio = Figure(name=FigureName.PERPLEXITY_RATIO, value=1 + loss, lower=1 + 0.8 * loss, upper=1 + 1.3 * loss)
        divergence = Figure(name=FigureName.KL_DIVERGENCE, value=loss, lower=0.9 * loss, upper=1.2 * loss)
        agreement = Figure(
            name=FigureName.TOP_TOKEN_AGREEMENT, value=1 - loss, lower=1 - 1.2 * loss, upper=1 - loss / 2
        )
        share = Figure(name=FigureName.CHECKPOINT_BYTES_RATIO, value=size / 1000, lower=size / 1000, upper=size / 1000)
        figures = [ratio, share] if engine is not None else [ratio, divergence, agreement, share]
        settings = Settings(
            model_digest="a" * 64,
            checkpoint_digest=f"{size:064x}",
            data_digest="d" * 64,
            confidence=0.95,
            seed=1,
            resamples=10_000,
            engine=engine,
        )
        machine = Machine(isa="AVX512", threads=2, dtype="torch.bfloat16", torch="2.13.0", transformers="5.19.0")
        fields: dict[str, Any] = {
            "candidate": CandidateSpec(method=method, scheme=scheme),
            "digest": f"{size:064x}",
            "bytes": size * 1_000_000,
            "original_bytes": 1_000_000_000,
            "gates": unjudged(figures, units, 0.95),
            "perplexity_original": 20.0,
            "perplexity_candidate": 20.0 * (1 + loss),
            "scored_tokens": 15_360,
            "layers": _layers(method, 4),
            "fingerprint": Fingerprint(settings=settings, machine=machine),
            "timings": Timings(original=1.0, candidate=2.0, compare=0.5),
            "peak_bytes": 900_000_000,
        }
        return Report(**{**fields, **changes})

    return make
