"""Fused units: linears that engines merge into one layer, so that they must share one precision.

They are {q, k, v}, {gate, up}, o, down, and the experts of a layer. What a candidate's `ignore` names, and what is
raised to a higher precision, is always a whole unit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.models.architectures import Architecture


@dataclass(frozen=True)
class Unit:
    """Linears of one block that share a precision.

    Attributes:
        block: number of the block.
        linears: their full names, which are those of their weights without `.weight`.
    """

    block: int
    linears: tuple[str, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of their weights."""
        return tuple(f"{linear}.weight" for linear in self.linears)

    @property
    def name(self) -> str:
        """For people and reports: what the names have in common, once, as `model.layers.0.mlp.[gate_proj,up_proj]`."""
        if len(self.linears) == 1:
            return self.linears[0]
        parents = {linear.rpartition(".")[0] for linear in self.linears}
        if len(parents) > 1:
            return f"{self.linears[0].rsplit('.', 2)[0]}.*"  # all experts of a layer
        return f"{parents.pop()}.[{','.join(linear.rpartition('.')[2] for linear in self.linears)}]"


def units_of(architecture: Architecture, groups: Iterable[Iterable[Sequence[str]]]) -> tuple[Unit, ...]:
    """The units of a model in the order in which they are computed.

    Args:
        architecture: of the model.
        groups: for each block its input groups, by the linears' names inside it.
    """
    units: list[Unit] = []
    for index, block in enumerate(groups):
        experts: list[str] = []
        for group in block:
            named = tuple(f"{architecture.block(index)}.{linear}" for linear in group)
            if architecture.mixture is not None and architecture.mixture.expert_of(group[0]):
                experts += named
            else:
                units.append(Unit(index, named))
        if experts:
            units.append(Unit(index, tuple(experts)))
    return tuple(units)


def without_ignored(units: Sequence[Unit], globs: Sequence[str], others: Iterable[str]) -> tuple[Unit, ...]:
    """The units that no glob names.

    Args:
        units: of the model.
        globs: full names of linears, with `*` and `?` as in file names.
        others: linears that are never quantized, which globs may name, too.

    Raises:
        StageError: `IGNORE_UNKNOWN` for a glob that fits no linear, `IGNORE_SPLITS` if a unit is named in part,
            `IGNORE_ALL` if nothing is left.
    """
    known = [*(linear for unit in units for linear in unit.linears), *others]
    for glob in globs:
        if not any(fnmatchcase(linear, glob) for linear in known):
            failure = Failure(reason=FailureReason.IGNORE_UNKNOWN, subject=subject_of(glob))
            raise StageError(failure, detail=f"ignore: {glob}")
    left = tuple(unit for unit in units if not _is_ignored(unit, globs))
    if not left:
        raise StageError(Failure(reason=FailureReason.IGNORE_ALL))
    return left


def _is_ignored(unit: Unit, globs: Sequence[str]) -> bool:
    named = [linear for linear in unit.linears if any(fnmatchcase(linear, glob) for glob in globs)]
    if named and len(named) < len(unit.linears):
        failure = Failure(
            reason=FailureReason.IGNORE_SPLITS, subject=subject_of(unit.name), have=len(named), need=len(unit.linears)
        )
        raise StageError(failure, detail=f"named are {', '.join(named)}")
    return bool(named)
