"""What quantizing a model does, known from shapes alone: which tensors change, how they are stored, how many bytes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from saffron_api.candidate import CandidateSpec, KvCache, Method, Target
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_api.quantized_model import Gates
from saffron_quantizer.algorithms.quantized import Grid
from saffron_quantizer.checkpoint.formats.format import Format
from saffron_quantizer.checkpoint.formats.registry import FORMATS, quantization_of
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.checkpoint.tensor_file import incomplete, malformed
from saffron_quantizer.models.architectures import Architecture, InputGroup
from saffron_quantizer.models.recognize import architecture_of
from saffron_quantizer.precision import Activations, Precision, precision_of
from saffron_quantizer.units import Unit, units_of, without_ignored

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
        groups: for each block its input groups, by the linears' names inside it.
        outside: names of the tensors outside the blocks, which are copied.
        units: linears that must share a precision, all of the model.
        precisions: of each weight that is quantized, by its name; an ignored one has none.
        kept: modules that are never quantized and that an engine might take for linears to be: the head, routers and
            the like.
        bytes: of all tensors as they will be stored.
    """

    architecture: Architecture
    spec: CandidateSpec
    layout: Format
    blocks: tuple[tuple[str, ...], ...]
    groups: tuple[tuple[InputGroup, ...], ...]
    outside: tuple[str, ...]
    units: tuple[Unit, ...]
    precisions: Mapping[str, Precision]
    kept: tuple[str, ...]
    bytes: int

    def weight(self, index: int, linear: str) -> str:
        """The name of the weight of a block's linear, which is named inside the block."""
        return f"{self.architecture.block(index)}.{linear}.weight"

    @property
    def unquantized(self) -> tuple[str, ...]:
        """The full names of the modules that stay as they are: what is never quantized, and what is ignored."""
        linears = (linear for unit in self.units for linear in unit.linears)
        return (*self.kept, *(each for each in linears if f"{each}.weight" not in self.precisions))

    def grid(self, weight: str, model: torch.dtype) -> Grid:
        """What a weight of a model that is stored in a type is rounded to."""
        return self.grid_of(self.precisions[weight], model)

    def grid_of(self, precision: Precision, model: torch.dtype) -> Grid:
        """What weights of a precision of a model that is stored in a type are rounded to."""
        scale_dtype = self.layout.scale_dtype(precision, model)
        return Grid(precision.bits, precision.group_size, scale_dtype, symmetric=self.spec.symmetric)

    def compared(self, index: int) -> list[str]:
        """The first linear of each input group of a block whose input in the original is looked at, too."""
        if self.spec.target is not Target.ORIGINAL:
            return []
        mixture = self.architecture.mixture
        firsts = [group[0] for group in self.groups[index] if self.weight(index, group[0]) in self.precisions]
        # An expert need not be sent the tokens that the original's is sent.
        return [linear for linear in firsts if mixture is None or mixture.expert_of(linear) is None]

    def static_inputs(self, index: int) -> dict[str, str]:
        """The scales of inputs that a block stores: the name of each, and of the linear (inside the block) to measure.

        Engines merge linears that read the same input, so all of a group have the scale of the first.
        """
        return {
            f"{self.architecture.block(index)}.{linear}.input_scale": group[0]
            for group in self.groups[index]
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
        StageError: `ARCHITECTURE_UNSUPPORTED`, also where the candidate asks more of it than is known of it, or where
            its weights are codes, `MODEL_INCOMPLETE` for a linear that the folder lacks, `SHAPE_UNSUPPORTED` for one
            whose columns the group size does not divide, `ROWS_UNSUPPORTED` for one whose rows the format can't pack;
            as for `without_ignored` where the candidate's `ignore` does not fit the model; `ESCALATION_TOO_TIGHT` if
            `escalate` leaves it no room.
    """
    architecture = architecture_of(reader)
    refuse_quantized(reader)
    _refuse_smoothing(architecture, spec)
    count = reader.config.get("num_hidden_layers")
    if not isinstance(count, int) or count < 1:
        raise malformed("config.json(num_hidden_layers)")
    prefixes = [architecture.block(index) for index in range(count)]
    blocks = tuple(tuple(sorted(n for n in reader.entries if n.startswith(f"{prefix}."))) for prefix in prefixes)
    groups = tuple(_groups(architecture, f"{prefix}.", names) for prefix, names in zip(prefixes, blocks, strict=True))
    inside = {name for names in blocks for name in names}
    outside = tuple(
        sorted(n for n in reader.entries if n not in inside and not _is_spare_head(n, reader, architecture))
    )
    units = units_of(architecture, groups)
    if not units:
        # Its tensors have other names than those of its class, so the first linear is as good as any to be missed.
        raise incomplete(f"{prefixes[0]}.{architecture.input_groups[0][0]}.weight")
    kept = _kept(reader, architecture, prefixes)
    quantized = without_ignored(units, spec.ignore, kept)
    precisions = {weight: precision_of(spec) for unit in quantized for weight in unit.weights}
    _refuse_codes(reader, precisions)
    bare = Plan(
        architecture=architecture,
        spec=spec,
        layout=FORMATS[spec.format],
        blocks=blocks,
        groups=groups,
        outside=outside,
        units=units,
        precisions={},
        kept=kept,
        bytes=0,
    )
    plan = with_precisions(bare, reader, precisions)
    most = most_bytes(reader, spec, None)
    if spec.escalate is not None and plan.bytes > most:
        raise StageError(Failure(reason=FailureReason.ESCALATION_TOO_TIGHT, have=plan.bytes, need=most))
    return plan


def refuse_quantized(reader: CheckpointReader) -> None:
    """Refuse an original that is quantized already, by us or by others.

    Raises:
        StageError: `ARCHITECTURE_UNSUPPORTED`.
    """
    if quantization_of(reader.config) is not None:
        failure = Failure(reason=FailureReason.ARCHITECTURE_UNSUPPORTED, subject="quantization_config")
        raise StageError(failure, detail="the model is quantized already; give the original")


def _refuse_codes(reader: CheckpointReader, weights: Iterable[str]) -> None:
    """Refuse weights that are codes, of which config.json says nothing: without their scales they mean nothing."""
    for weight in weights:
        dtype = reader.entry(weight).dtype
        if not dtype.is_floating_point or dtype.itemsize == 1:
            subject = subject_of(f"{weight}({str(dtype).removeprefix('torch.')})")
            failure = Failure(reason=FailureReason.ARCHITECTURE_UNSUPPORTED, subject=subject)
            raise StageError(failure, detail="the model is quantized already, though its config.json does not say so")


def _refuse_smoothing(architecture: Architecture, spec: CandidateSpec) -> None:
    """Refuse to smooth an architecture of which nobody has written down where a scale may move."""
    if architecture.inferred and (spec.smoothing is not None or spec.method in {Method.AWQ, Method.SMOOTHQUANT}):
        subject = subject_of(f"{architecture.name}(smoothing)")
        failure = Failure(reason=FailureReason.ARCHITECTURE_UNSUPPORTED, subject=subject)
        raise StageError(failure, detail="smoothing needs a row in the table of architectures; RTN and GPTQ do not")


def _groups(architecture: Architecture, prefix: str, names: Iterable[str]) -> tuple[InputGroup, ...]:
    """The input groups of a block that has tensors of these names."""
    return architecture.groups(name.removeprefix(prefix).removesuffix(".weight") for name in names)


def _kept(reader: CheckpointReader, architecture: Architecture, prefixes: Iterable[str]) -> tuple[str, ...]:
    inside = [f"{prefix}.{kept}" for prefix in prefixes for kept in architecture.kept]
    return (architecture.head, *architecture.unquantized, *(n for n in inside if f"{n}.weight" in reader.entries))


def with_precisions(plan: Plan, reader: CheckpointReader, precisions: Mapping[str, Precision]) -> Plan:
    """The same plan with other precisions.

    Raises:
        StageError: `MODEL_INCOMPLETE` or `SHAPE_UNSUPPORTED`, as for `make_plan`.
    """
    sizes = {name: reader.entry(name).bytes for names in (*plan.blocks, plan.outside) for name in names}
    sizes |= {name: stored_bytes(reader, name, plan.layout, precision) for name, precision in precisions.items()}
    changed = replace(plan, precisions=precisions)
    scales = sum(len(changed.fixed_scales(index)) for index in range(len(plan.blocks)))
    return replace(changed, bytes=sum(sizes.values()) + FIXED_SCALE_BYTES * scales)


def most_bytes(reader: CheckpointReader, spec: CandidateSpec, gates: Gates | None) -> int:
    """The bytes that an escalated candidate may have: as it says, and as the gate for them allows if there is one."""
    shares = [spec.escalate.max_bytes_ratio] if spec.escalate is not None else []
    if gates is not None and gates.checkpoint_bytes_ratio is not None:
        shares.append(gates.checkpoint_bytes_ratio.max)
    return int(min(shares, default=1.0) * reader.bytes)


def stored_bytes(reader: CheckpointReader, name: str, layout: Format, precision: Precision) -> int:
    """Bytes of the tensors that stand for a weight.

    Raises:
        StageError: `MODEL_INCOMPLETE` or `SHAPE_UNSUPPORTED`, as for `make_plan`.
    """
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
