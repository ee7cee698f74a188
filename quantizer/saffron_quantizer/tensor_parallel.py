"""On how many cards vLLM can serve a checkpoint together, each with a part of every linear (arXiv 1909.08053).

Of the linears that read a block's input, and of those that read an MLP's, each card has some output rows; of those that
write back into the residual stream each has some input columns, and there the parts must be whole groups and whole
words, as vLLM's `verify_group_size_divides_partition` asks.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from saffron_api.failures import Failure, FailureReason, StageError
from saffron_api.prediction import TENSOR_PARALLEL_SIZES
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.models.architectures import Architecture
from saffron_quantizer.plan import Plan
from saffron_quantizer.precision import Activations, Precision

_log = logging.getLogger(__name__)

_WORD = 32
"""Bits; where only weights are rounded their codes are packed in words of so many."""


@dataclass(frozen=True)
class Heads:
    """Of the attention.

    Attributes:
        queries: how many.
        keys: how many of keys, and as many of values.
    """

    queries: int
    keys: int

    def divide(self, cards: int) -> bool:
        """Whether each card can have as many: of keys a card has several, or several cards have the same one."""
        return self.queries % cards == 0 and (self.keys % cards == 0 or cards % self.keys == 0)


@dataclass(frozen=True)
class Divided:
    """A dimension of a linear of which each card has a part.

    Attributes:
        size: rows or columns of the whole.
        multiple: what must divide a part.
        most: parts that differ, at most.
    """

    size: int
    multiple: int = 1
    most: int | None = None

    def divide(self, cards: int) -> bool:
        """Whether so many cards can share it."""
        return self.size % (min(cards, self.most or cards) * self.multiple) == 0


def largest_size(heads: Heads, linears: Iterable[Divided]) -> int:
    """The largest of `TENSOR_PARALLEL_SIZES` that divides all."""
    parts = set(linears)
    fitting = (
        size for size in TENSOR_PARALLEL_SIZES if heads.divide(size) and all(each.divide(size) for each in parts)
    )
    return max(fitting, default=1)


def tensor_parallel(reader: CheckpointReader, plan: Plan) -> int | None:
    """The largest of `TENSOR_PARALLEL_SIZES` that a planned checkpoint can be served with.

    Returns:
        None where it is not known which of its linears are divided in which dimension, or how many heads it has.
    """
    heads = heads_of(reader.config)
    if plan.architecture.inferred or heads is None:
        return None
    return largest_size(heads, _linears(reader, plan, heads))


def require_cards(reader: CheckpointReader, plan: Plan, cards: int) -> None:
    """Refuse a planned checkpoint that so many cards, one of `TENSOR_PARALLEL_SIZES`, can't serve together.

    Where that is not known, it is said so.

    Raises:
        StageError: `CARDS_UNSUPPORTED`.
    """
    most = tensor_parallel(reader, plan)
    if most is None:
        _log.warning("It is not known of this architecture how many cards can share it.")
    elif most < cards:
        raise StageError(Failure(reason=FailureReason.CARDS_UNSUPPORTED, have=most, need=cards))


def heads_of(config: Mapping[str, Any]) -> Heads | None:
    """The heads that a config.json tells of, or None where it does not."""
    queries = config.get("num_attention_heads")
    keys = config.get("num_key_value_heads") or queries
    if not isinstance(queries, int) or not isinstance(keys, int) or queries < 1 or keys < 1:
        return None
    return Heads(queries, keys)


def writes_back(architecture: Architecture, linear: str) -> bool:
    """Whether a block's linear, by its name inside it, is the last of its part, and so divided along its input."""
    mixture = architecture.mixture
    if mixture is not None and mixture.expert_of(linear):
        return linear.endswith(f".{mixture.down}")
    # In each row of the table what reads a part's input and what writes its output take turns.
    return any(linear in group for group in architecture.input_groups[1::2])


def _linears(reader: CheckpointReader, plan: Plan, heads: Heads) -> Iterable[Divided]:
    for index, groups in enumerate(plan.groups):
        for linear in (linear for group in groups for linear in group):
            name = plan.weight(index, linear)
            rows, columns = reader.entry(name).shape
            precision = plan.precisions.get(name)
            if writes_back(plan.architecture, linear):
                yield Divided(columns, _columns_at_once(precision))
            else:
                of_heads = linear.startswith(f"{plan.architecture.attention}.")
                yield Divided(rows, plan.layout.row_multiple if precision else 1, heads.keys if of_heads else None)


def _columns_at_once(precision: Precision | None) -> int:
    """Columns that can't be parted."""
    if precision is None or precision.activations is not Activations.AS_THEY_ARE:
        return 1
    return precision.group_size or _WORD // precision.bits
