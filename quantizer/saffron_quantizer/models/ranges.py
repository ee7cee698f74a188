"""How far the inputs of linears, and keys and values, reach over all sequences: what fixed scales are made of."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.models.kv_cache import RangeKvCache, no_cache
from saffron_quantizer.models.stream import Walk


@dataclass(frozen=True)
class Ranges:
    """The largest magnitudes in one block over the tokens of all ranks, float32 scalars; padding left out.

    Attributes:
        inputs: of what each linear reads, by its name inside the block.
        keys_and_values: of the keys and of the values; empty where they were not looked at.
    """

    inputs: Mapping[str, Tensor]
    keys_and_values: tuple[Tensor, ...] = ()


@torch.no_grad()
def advance_and_measure(walk: Walk, index: int, linears: Sequence[str], *, keys_and_values: bool) -> Ranges:
    """Run a loaded block over all batches, take the walk past it, and see how far things reach on the way.

    Args:
        walk: stands before block `index`.
        index: of the block.
        linears: names inside the block of those whose inputs are looked at.
        keys_and_values: whether those are looked at.

    Raises:
        StageError: `ARCHITECTURE_UNSUPPORTED` if keys and values can't be reached, or a linear does not see each token.
    """
    block = walk.stream.blocks[index]
    inputs = {linear: torch.zeros((), device=walk.stream.device) for linear in linears}
    cache = RangeKvCache(walk.stream.device) if keys_and_values else None
    real = torch.ones(1, 1, dtype=torch.bool)

    def listener(linear: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def listen(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            if x.shape[:-1] != real.shape:
                # An expert sees some of the tokens, and engines give all experts the largest of their scales.
                subject = subject_of(f"{walk.stream.architecture.block(index)}.{linear}(FP8Static)")
                raise StageError(Failure(reason=FailureReason.ARCHITECTURE_UNSUPPORTED, subject=subject))
            inputs[linear] = torch.maximum(inputs[linear], (x.abs() * real[:, :, None]).amax().float())

        return listen

    with ExitStack() as hooks:
        for linear in linears:
            hooks.enter_context(block.get_submodule(linear).register_forward_pre_hook(listener(linear)))
        for number, batch in enumerate(walk.batches):
            real = batch.real.to(walk.stream.device)
            if cache is not None:
                cache.real = real
            walk.states[number] = walk.run(index, number, cache)
    of_all = {linear: walk.ranks.max(reach) for linear, reach in inputs.items()}
    if cache is None:
        return Ranges(of_all)
    if cache.updates == 0:
        raise no_cache(walk.stream.architecture.block(index))
    return Ranges(of_all, (walk.ranks.max(cache.keys), walk.ranks.max(cache.values)))
