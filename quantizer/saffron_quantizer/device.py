"""What computes: the CPU, or a card that is there and that can do what is asked of it."""

from collections.abc import Mapping

import torch

from saffron_api.candidate import GPU_CAPABILITY, Scheme
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.models.compute import CPU

DEVICES = ("cpu", "cuda")
"""What a command line may name."""

_LEAST_CAPABILITY = (8, 0)
"""Of a card for which Triton compiles."""


def device_named(name: str, environment: Mapping[str, str]) -> torch.device:
    """The device of a name, ready to compute.

    Several processes on one machine take a card each, by the LOCAL_RANK that torchrun tells them. It is a card with its
    number: a thread of its own has another current one.

    Args:
        name: one of `DEVICES`.
        environment: variables.

    Raises:
        StageError: `GPU_UNUSABLE` where there is no card, too old a one or too few, or Triton can't start kernels.
    """
    if name == CPU.type:
        return CPU
    if not torch.cuda.is_available():
        raise _unusable("no-GPU-found", "torch finds none")
    number, count = environment.get("LOCAL_RANK", "0"), torch.cuda.device_count()
    if not number.isascii() or not number.isdigit() or int(number) >= count:
        raise _unusable(f"GPUs={count},LOCAL_RANK={number}", "each process on a machine needs a GPU of its own")
    device = torch.device(name, int(number))
    capability = torch.cuda.get_device_capability(device)
    if capability < _LEAST_CAPABILITY:
        raise _too_old(capability, _LEAST_CAPABILITY, "Triton compiles for none that is older")
    torch.cuda.set_device(device)
    from saffron_kernels.triton_driver import NoDriverError, load_driver  # noqa: PLC0415 - Triton is needed on a card alone

    try:
        load_driver()
    except NoDriverError as error:
        raise _unusable("Triton", str(error)) from error
    return device


def require_fp8(device: torch.device) -> None:
    """Refuse a card that does not multiply FP8 numbers; a CPU does it in float32.

    Raises:
        StageError: `GPU_UNUSABLE`.
    """
    if device.type != "cuda":
        return
    capability, least = torch.cuda.get_device_capability(device), divmod(GPU_CAPABILITY[Scheme.FP8], 10)
    if capability < least:
        raise _too_old(capability, least, "it has no FP8")


def _too_old(capability: tuple[int, int], least: tuple[int, int], why: str) -> StageError:
    told, needed = (f"{major}.{minor}" for major, minor in (capability, least))
    return _unusable(f"compute-capability={told},least={needed}", why)


def _unusable(subject: str, why: str) -> StageError:
    return StageError(Failure(reason=FailureReason.GPU_UNUSABLE, subject=subject_of(subject)), detail=why)
