"""What quantizing a model does, known from shapes alone: which tensors change, how they are stored, how many bytes."""

from dataclasses import dataclass
from pathlib import Path

from saffron_api.candidate import CandidateSpec
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.checkpoint.formats import scheme_of, stored_bytes
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.checkpoint.tensor_file import malformed
from saffron_quantizer.models.architectures import Architecture
from saffron_quantizer.models.skeleton import architecture_of

_MATRIX = 2


@dataclass(frozen=True)
class Plan:
    """What becomes of each tensor of a model.

    Attributes:
        architecture: of the model.
        spec: how its linears are quantized.
        blocks: for each block the names of its tensors.
        outside: names of the tensors outside the blocks, which are copied.
        linears: names of the weights that are quantized.
        bytes: of all tensors as they will be stored.
    """

    architecture: Architecture
    spec: CandidateSpec
    blocks: tuple[tuple[str, ...], ...]
    outside: tuple[str, ...]
    linears: frozenset[str]
    bytes: int


def make_plan(reader: CheckpointReader, spec: CandidateSpec) -> Plan:
    """Plan a candidate of a model.

    Raises:
        StageError: `ARCHITECTURE_UNSUPPORTED`, `MODEL_INCOMPLETE` for a linear that the folder lacks,
            `SHAPE_UNSUPPORTED` for one whose columns the group size does not divide.
    """
    architecture = architecture_of(reader.config)
    if scheme_of(reader.config) is not None:
        subject = "quantization_config"
        raise StageError(Failure(reason=FailureReason.ARCHITECTURE_UNSUPPORTED, subject=subject))
    count = reader.config.get("num_hidden_layers")
    if not isinstance(count, int) or count < 1:
        raise malformed("config.json(num_hidden_layers)")
    prefixes = [architecture.block(index) for index in range(count)]
    linears = [f"{prefix}.{linear}.weight" for prefix in prefixes for linear in architecture.linears]
    blocks = tuple(tuple(sorted(n for n in reader.entries if n.startswith(f"{prefix}."))) for prefix in prefixes)
    inside = {name for names in blocks for name in names}
    outside = tuple(
        sorted(n for n in reader.entries if n not in inside and not _is_spare_head(n, reader, architecture))
    )
    sizes = {name: reader.entry(name).bytes for name in (*inside, *outside)}
    for name in linears:
        sizes[name] = _quantized_bytes(reader, name, spec)
    return Plan(architecture, spec, blocks, outside, frozenset(linears), sum(sizes.values()))


def _quantized_bytes(reader: CheckpointReader, name: str, spec: CandidateSpec) -> int:
    entry, group_size = reader.entry(name), spec.effective_group_size
    if len(entry.shape) != _MATRIX:
        raise malformed(name)
    rows, columns = entry.shape
    if group_size is not None and columns % group_size:
        raise StageError(
            Failure(reason=FailureReason.SHAPE_UNSUPPORTED, subject=subject_of(name), have=columns, need=group_size)
        )
    return stored_bytes(spec.scheme, rows, columns, group_size, entry.dtype)


def _is_spare_head(name: str, reader: CheckpointReader, architecture: Architecture) -> bool:
    """Whether a tensor is a head that is tied to the embedding, so that storing it again would be waste."""
    return name == f"{architecture.head}.weight" and is_tied(reader, architecture)


def is_tied(reader: CheckpointReader, architecture: Architecture) -> bool:
    """Whether the head is the embedding: the config says so, or leaves it open and the file has no head."""
    head = f"{architecture.head}.weight"
    return bool(reader.config.get("tie_word_embeddings", head not in reader.entries))


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder, 0 if there is none."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) if folder.is_dir() else 0
