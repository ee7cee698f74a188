"""Options that subcommands share, and how their values are read: each refusal says what is allowed."""

import argparse
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import yaml
from pydantic import ValidationError

from saffron_api.quantized_model import Gates
from saffron_quantizer.alongside import begun
from saffron_quantizer.engine_address import address
from saffron_quantizer.report import Report

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")
Choice = TypeVar("Choice", bound=StrEnum)


def choice(kind: type[Choice]) -> Callable[[str], Choice]:
    """Read one of an enum's values in any case."""

    def read(text: str) -> Choice:
        for member in kind:
            if member.value.lower() == text.lower():
                return member
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(kind)}")

    return read


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Read a whole number within bounds, both included."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return read


_UNITS = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4} | {
    f"{letter}i": 1024**power for power, letter in enumerate("KMGT", start=1)
}


def quantity_of_bytes(text: str) -> int:
    """Read bytes as Kubernetes writes them: 500M is 500,000,000 and 2Gi is 2,147,483,648."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]|[KMGT]i)?", text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes such as 500M or 2Gi")
    return int(Decimal(found[1]) * _UNITS[found[2] or ""])


def file_to_write(text: str) -> Path:
    """Read the path of a file that will be written at the end of long work."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder {path.parent} does not exist")
    return path


def level(text: str) -> float:
    """Read a level of confidence, a share between one half and one.

    The resamples that a bound needs grow with 1 / (1 - level). Beyond 0.99999, which is more than the gates' highest
    confidence comes to for the most candidates, neither memory nor patience has room for them.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value <= 0.99999:  # noqa: PLR2004 under one half a bound would lie on the wrong side
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0.5 to 0.99999, as 0.95")
    return value


def digest(text: str) -> str:
    """Read a SHA-256 in hex."""
    if len(text) != 64 or set(text) - set("0123456789abcdef"):  # noqa: PLR2004 256 bits in hex
        raise argparse.ArgumentTypeError(f"{text!r} is not a SHA-256, 64 hexadecimal digits")
    return text


def engine_url(text: str) -> str:
    """Read the address of an engine's API."""
    try:
        address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from error
    return text


def gates_file(text: str) -> Gates:
    """Read limits from YAML as they stand under `gates` in a QuantizedModel."""
    try:
        loaded = yaml.safe_load(Path(text).read_bytes())
        if not isinstance(loaded, Mapping):
            raise argparse.ArgumentTypeError(f"{text} is no mapping of limits, as perplexityRatio: {{max: 1.05}}")
        return Gates.model_validate(loaded)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"can't read {text}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text} is not YAML") from error
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text}: {refusals(error)}") from error


def gates_json(text: str) -> Gates:
    """Read limits from JSON as they stand under `gates` in a QuantizedModel."""
    try:
        return Gates.model_validate_json(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(refusals(error)) from error


def report_file(text: str) -> Report:
    """Read a report that `saffron evaluate` wrote."""
    try:
        return Report.model_validate_json(Path(text).read_bytes())
    except OSError as error:
        raise argparse.ArgumentTypeError(f"can't read {text}: {error.strerror}") from error
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a report of saffron evaluate") from error


def refusals(error: ValidationError) -> str:
    """What a type refuses, in one line: each field and what is wrong with it."""
    return "; ".join(_refusal(entry["loc"], entry["msg"]) for entry in error.errors(include_url=False))


def _refusal(place: Iterable[int | str], message: str) -> str:
    field = ".".join(map(str, place))
    return f"{field}: {message}" if field else message


def add_folder(parser: argparse.ArgumentParser, *, name: str = "--model", what: str = "the model") -> None:
    """The folder of a model."""
    parser.add_argument(
        name, type=Path, required=True, metavar="DIR", help=f"folder of {what}: config.json, *.safetensors, tokenizer"
    )


def add_model(parser: argparse.ArgumentParser, *, name: str = "--model", what: str = "the model") -> None:
    """The folder of the original, and what is known of it."""
    add_folder(parser, name=name, what=what)
    parser.add_argument(
        "--model-digest",
        type=digest,
        metavar="HEX",
        help="the model's digest as `saffron inspect` tells it (default: computed, which reads the whole folder)",
    )


def add_original(parser: argparse.ArgumentParser, *, name: str = "--model", what: str = "the original") -> None:
    """The folder of a model that a stage reads, what is known of it, and where hashes of its files are remembered."""
    add_model(parser, name=name, what=what)
    add_hash_cache(parser)


def add_hash_cache(parser: argparse.ArgumentParser) -> None:
    """Where hashes of the model's files are remembered."""
    parser.add_argument(
        "--hash-cache",
        type=Path,
        metavar="FILE",
        help="JSON file that remembers the hashes of the model's files by size and time of change; a file that "
        "differs from it has changed during the run (default: none)",
    )


@contextmanager
def unchanged(folder: Path, arguments: argparse.Namespace) -> Iterator[Callable[[], str]]:
    """The digest of the folder that `add_original` asked for, whose files must stay as they are meanwhile.

    It is computed from now on, while the caller imports torch and reads other things, and waited for when it is called.

    Raises:
        StageError: `MODEL_MISSING` or `MODEL_CHANGED`.
    """
    from saffron_quantizer.checkpoint.identity import FolderGuard, model_digest  # noqa: PLC0415 not for --help

    with FolderGuard(folder, hash_cache=arguments.hash_cache):
        known = arguments.model_digest
        yield (lambda: known) if known else begun(partial(model_digest, folder, hash_cache=arguments.hash_cache))


def add_device(parser: argparse.ArgumentParser, *, otherwise: str) -> None:
    """What computes."""
    parser.add_argument("--device", choices=("cpu", "cuda"), help=f"what computes (default: {otherwise})")


def require_device(arguments: argparse.Namespace) -> None:
    """Refuse a card that can't be used before anything is read; without one asked for, torch is not imported.

    Raises:
        StageError: `GPU_UNUSABLE`.
    """
    if arguments.device == "cuda":
        device_of(arguments)


def device_of(arguments: argparse.Namespace, *, otherwise: str = "cpu") -> "torch.device":
    """The device that `add_device` asked for, ready to compute.

    Raises:
        StageError: `GPU_UNUSABLE`.
    """
    from saffron_quantizer.device import device_named  # noqa: PLC0415 not for --help

    return device_named(arguments.device or otherwise, os.environ)


def add_gate_set(parser: argparse.ArgumentParser) -> None:
    """What candidates are measured on."""
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="the gate set: gate.jsonl of `saffron sample`, or JSONL",
    )
    add_sequences(parser)


def add_gates(parser: argparse.ArgumentParser, *, otherwise: str) -> None:
    """Limits to judge by; `otherwise` says what happens without them."""
    parser.add_argument(
        "--gates",
        type=gates_file,
        metavar="FILE",
        help=f"limits in YAML, as under `gates` in a QuantizedModel (default: {otherwise})",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """How the result is told."""
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON (default: as text)")
    parser.add_argument(
        "--result",
        type=file_to_write,
        metavar="FILE",
        help="also write the result, or why there is none, to this file as one line of JSON; a Job's termination "
        "message (default: none)",
    )


def add_sequences(parser: argparse.ArgumentParser) -> None:
    """How lines that people wrote are read where sampled ones are usual."""
    parser.add_argument(
        "--max-tokens",
        type=whole_number(16, 131_072),
        default=2048,
        metavar="N",
        help="tokens that a sequence keeps when the lines are text, prompt or messages, 16 to 131072; sampled lines "
        "are taken as they are (default: %(default)s)",
    )
