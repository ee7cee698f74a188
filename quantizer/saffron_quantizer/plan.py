"""What quantizing a model does, known from shapes alone: which tensors change, how they are stored, how many bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from saffron_api.candidate import CandidateSpec, KvCache
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.algorithms.quantized import Grid
from saffron_quantizer.checkpoint.formats.format import Format
from saffron_quantizer.checkpoint.formats.registry import FORMATS, quantization_of
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.checkpoint.tensor_file import malformed
from saffron_quantizer.models.architectures import Architecture
from saffron_quantizer.models.skeleton import architecture_of
from saffron_quantizer.precision import Activations, Precision, precision_of

_MATRIX = 2

FIXED_SCALE_BYTES = torch.float32.itemsize
"""Of one scale of what is no weight, [1] float32."""


@dataclass(frozen=True)
class Plan:
    """What becomes of each tensor of a model.

    Attributes:
        architecture: of the model.
        spec: how its linears are quantized.
        layout: how they are stored.
        blocks: for each block the names of its tensors.
        outside: names of the tensors outside the blocks, which are copied.
        precisions: of each weight that is quantized, by its name.
        bytes: of all tensors as they will be stored.
    """

    architecture: Architecture
    spec: CandidateSpec
    layout: Format
    blocks: tuple[tuple[str, ...], ...]
    outside: tuple[str, ...]
    precisions: Mapping[str, Precision]
    bytes: int

    def weight(self, index: int, linear: str) -> str:
        """The name of the weight of a block's linear, which is named inside the block."""
        return f"{self.architecture.block(index)}.{linear}.weight"

    def grid(self, weight: str, model: torch.dtype) -> Grid:
        """What a weight of a model that is stored in a type is rounded to."""
        precision = self.precisions[weight]
        scale_dtype = self.layout.scale_dtype(precision, model)
        return Grid(precision.bits, precision.group_size, scale_dtype, symmetric=self.spec.symmetric)

    def static_inputs(self, index: int) -> dict[str, str]:
        """The scales of inputs that a block stores: the name of each, and of the linear (inside the block) to measure.

        Engines merge linears that read the same input, so all of a group have the scale of the first.
        """
        return {
            f"{self.architecture.block(index)}.{linear}.input_scale": group[0]
            for group in self.architecture.input_groups
            for linear in group
            if self._is_static(self.weight(index, linear))
        }

    def kv_scales(self, index: int) -> tuple[str, ...]:
        """The names of the scales of a block's keys and of its values, if it stores any."""
        if self.spec.kv_cache is KvCache.NONE:
            return ()
        attention = f"{self.architecture.block(index)}.{self.architecture.attention}"
        return f"{attention}.k_scale", f"{attention}.v_scale"

    def fixed_scales(self, index: int) -> tuple[str, ...]:
        """The names of all scales in a block that were measured before and are of no weight."""
        return (*self.static_inputs(index), *self.kv_scales(index))

    def _is_static(self, weight: str) -> bool:
        precision = self.precisions.get(weight)
        return precision is not None and precision.activations is Activations.FP8_PER_TENSOR


def make_plan(reader: CheckpointReader, spec: CandidateSpec) -> Plan:
    """Plan a candidate of a model.

    Raises:
        StageError: `ARCHITECTURE_UNSUPPORTED`, `MODEL_INCOMPLETE` for a linear that the folder lacks,
            `SHAPE_UNSUPPORTED` for one whose columns the group size does not divide, `ROWS_UNSUPPORTED` for one whose
            rows the format can't pack.
    """
    architecture = architecture_of(reader.config)
    if quantization_of(reader.config) is not None:
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
    layout = FORMATS[spec.format]
    precisions = dict.fromkeys(linears, precision_of(spec))
    for name, precision in precisions.items():
        sizes[name] = _quantized_bytes(reader, name, layout, precision)
    plan = Plan(architecture, spec, layout, blocks, outside, precisions, sum(sizes.values()))
    scales = sum(len(plan.fixed_scales(index)) for index in range(count))
    return replace(plan, bytes=plan.bytes + FIXED_SCALE_BYTES * scales)


def _quantized_bytes(reader: CheckpointReader, name: str, layout: Format, precision: Precision) -> int:
    entry, group_size = reader.entry(name), precision.group_size
    if len(entry.shape) != _MATRIX:
        raise malformed(name)
    rows, columns = entry.shape
    if group_size is not None and columns % group_size:
        raise StageError(
            Failure(reason=FailureReason.SHAPE_UNSUPPORTED, subject=subject_of(name), have=columns, need=group_size)
        )
    if rows % layout.row_multiple:
        subject, need = subject_of(name), layout.row_multiple
        raise StageError(Failure(reason=FailureReason.ROWS_UNSUPPORTED, subject=subject, have=rows, need=need))
    return layout.stored_bytes(precision, rows, columns, entry.dtype)


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
