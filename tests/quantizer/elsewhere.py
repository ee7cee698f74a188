"""A device that is not the CPU, for machines without one: its tensors are computed on the CPU and can't be mixed up.

It finds what breaks on a card though all results are right on the CPU: a tensor made in the wrong place, or one that
was not brought back before its bytes are read. Kernels for a card are not run.
"""

from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend


class _Nothing:
    """What torch asks of a kind of device, such as how many there are."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return False

    def device_count(self) -> int:
        return 0

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Draw nothing."""


# For all of the process. Torch finds no device of that name and computes nothing with it by itself.
_setup_privateuseone_for_python_backend("elsewhere", _Nothing())
DEVICE = torch.device("elsewhere", 0)
CPU = torch.device("cpu")
_aten = torch.ops.aten
_MOVES = {_aten._to_copy.default, _aten.copy_.default}
_INDEXES = {_aten.index.Tensor}
"""Places may be told by tensors of the CPU, as on a card."""


class _There(Tensor):
    """A tensor of the device."""

    own: Tensor

    @staticmethod
    def __new__(cls, own: Tensor) -> Self:
        layout = {"strides": own.stride(), "storage_offset": own.storage_offset()}
        there = Tensor._make_wrapper_subclass(cls, own.size(), dtype=own.dtype, device=DEVICE, **layout)
        there.own = own
        return there

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _compute(op, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """While it lasts, tensors can be made on `DEVICE` and brought there."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return _compute(op, args, kwargs or {})


def _compute(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    asked = kwargs.get("device")
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    there = any(isinstance(each, _There) for each in given)
    if there and op not in _MOVES:
        first = args[:1] if op in _INDEXES else (args, kwargs)
        strays = [each for each in tree_leaves(first) if isinstance(each, Tensor) and not isinstance(each, _There)]
        assert all(each.dim() == 0 for each in strays), f"{op} is given tensors of two devices"
    if asked is not None:
        kwargs = {**kwargs, "device": CPU}
    result = op(*tree_map_only(_There, _own, args), **tree_map_only(_There, _own, kwargs))
    if op._schema.is_mutable and isinstance(result, Tensor):
        return kwargs.get("out", args[0])
    stays = asked == DEVICE if asked is not None else there
    return tree_map_only(Tensor, _There, result) if stays else result


def _own(tensor: _There) -> Tensor:
    return tensor.own
