"""What `gpu.py` times beside each other: an op as it is called, and others that do the same on the same numbers.

Sizes are of Llama-3-8B: 4096 hidden, 14336 in the MLP. Torch multiplies in float32 as its default says, without TF32.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Run = Callable[[], object]
HIDDEN, MLP = 4096, 14336
TOKENS = (1, 16, 128, 2048)
GROUP = 128
CALIBRATION = 2048
CARD = "cuda"


@dataclass(frozen=True)
class Contestants:
    """What to run.

    Attributes:
        ours: the op.
        others: by name, what prepares another that does the same; it raises where that is not to be had.
    """

    ours: Run
    others: Mapping[str, Callable[[], Run]]


@dataclass(frozen=True)
class Contest:
    """One op at one size.

    Attributes:
        op: its name.
        size: for the table.
        make: the contestants, with their tensors on the card.
        capability: the first compute capability that can do it.
    """

    op: str
    size: str
    make: Callable[[], Contestants]
    capability: tuple[int, int] = (8, 0)

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.op} {self.size}"


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Random numbers on the card."""
    return torch.randn(shape, device=CARD).to(dtype)


def positive(*shape: int) -> Tensor:
    """Random scales on the card."""
    return torch.rand(shape, device=CARD) + 0.5


def compiled(function: Callable[..., Any], *arguments: Tensor) -> Callable[[], Run]:
    """What torch.compile makes of a reference."""

    def prepare() -> Run:
        faster = torch.compile(function)
        faster(*arguments)
        return lambda: faster(*arguments)

    return prepare


def hessian(tokens: int) -> Contestants:
    """XᵀX beside a whole product."""
    from saffron_kernels.hessian import hessian as op  # noqa: PLC0415 - each op's own, when it is asked for

    X, H = normal(tokens, HIDDEN), torch.zeros(HIDDEN, HIDDEN, device=CARD)
    return Contestants(
        lambda: op(X, H),
        {
            # Most quantizers do this: llm-compressor and GPTQModel, for one.
            "cuBLAS in float32": lambda: lambda: H.addmm_(X.float().T, X.float()),
            "cuBLAS in bfloat16, sums in float32": lambda: lambda: H.add_(torch.mm(X.T, X, out_dtype=torch.float32)),
        },
    )


def gptq_block() -> Contestants:
    """The column loop beside the loop in Python."""
    from saffron_kernels.gptq_block import gptq_block as op  # noqa: PLC0415
    from saffron_kernels.gptq_block import gptq_block_reference  # noqa: PLC0415

    U = torch.triu(normal(1, GROUP, GROUP, dtype=torch.float32), 1) * 0.1 + torch.diag_embed(positive(1, GROUP))
    groups = torch.zeros(1, GROUP, dtype=torch.int32, device=CARD)
    arguments = normal(1, HIDDEN, GROUP, dtype=torch.float32), U, positive(1, HIDDEN, 1), None, groups, -8, 7
    return Contestants(lambda: op(*arguments), {"torch, a loop": lambda: lambda: gptq_block_reference(*arguments)})


def scale_search() -> Contestants:
    """The best of 21 scales of each group."""
    from saffron_kernels.scale_search import scale_search as op  # noqa: PLC0415

    W, factors = normal(HIDDEN, HIDDEN), [1 - 0.02 * step for step in range(21)]

    def searched(W: Tensor) -> Tensor:
        grouped = W.float().view(HIDDEN, -1, GROUP)
        full = grouped.abs().amax(dim=2) * 2 / 15
        best, least = full, torch.full_like(full, torch.inf)
        for factor in factors:
            scale = (full * factor)[:, :, None]
            error = ((grouped / scale).round().clamp(-8, 7) * scale - grouped).square().sum(dim=2)
            best, least = torch.where(error < least, scale[:, :, 0], best), torch.minimum(error, least)
        return best.bfloat16()

    return Contestants(
        lambda: op(W, factors, bits=4, group_size=GROUP, scale_dtype=torch.bfloat16),
        {"torch": lambda: lambda: searched(W), "torch.compile": compiled(searched, W)},
    )


def quantize_pack() -> Contestants:
    """Weights to words of eight codes."""
    from saffron_kernels.quantize_pack import Layout  # noqa: PLC0415
    from saffron_kernels.quantize_pack import quantize_pack as op  # noqa: PLC0415

    W, scale = normal(HIDDEN, HIDDEN), positive(HIDDEN, HIDDEN // GROUP).bfloat16()
    shifts = torch.arange(0, 32, 4, device=CARD)

    def packed(W: Tensor, scale: Tensor) -> Tensor:
        codes = (W.float().view(HIDDEN, -1, GROUP) / scale.float()[:, :, None]).round().clamp(-8, 7).int() + 8
        return (codes.view(HIDDEN, -1, 8) << shifts).sum(dim=2).int()

    return Contestants(
        lambda: op(W, scale, None, 4, Layout.COMPRESSED_TENSORS),
        {"torch": lambda: lambda: packed(W, scale), "torch.compile": compiled(packed, W, scale)},
    )


def dequantize() -> Contestants:
    """Words of eight codes to weights."""
    from saffron_kernels.dequantize import dequantize as op  # noqa: PLC0415
    from saffron_kernels.quantize_pack import Layout  # noqa: PLC0415

    words = torch.randint(-(2**31), 2**31 - 1, (HIDDEN, HIDDEN // 8), dtype=torch.int32, device=CARD)
    scale, shifts = positive(HIDDEN, HIDDEN // GROUP).bfloat16(), torch.arange(0, 32, 4, device=CARD)

    def unpacked(words: Tensor, scale: Tensor) -> Tensor:
        codes = ((words[:, :, None] >> shifts) & 15) - 8
        return (codes.view(HIDDEN, -1, GROUP) * scale[:, :, None]).view(HIDDEN, HIDDEN)

    return Contestants(
        lambda: op(words, scale, None, HIDDEN, bits=4, layout=Layout.COMPRESSED_TENSORS),
        {"torch": lambda: lambda: unpacked(words, scale), "torch.compile": compiled(unpacked, words, scale)},
    )


def awq_loss() -> Contestants:
    """The loss of one candidate of AWQ."""
    from saffron_kernels.awq_loss import awq_loss as op  # noqa: PLC0415

    W, s, X = normal(HIDDEN, HIDDEN), positive(HIDDEN), normal(CALIBRATION, HIDDEN, dtype=torch.float32)
    H = X.T @ X

    def loss(W: Tensor, s: Tensor, H: Tensor) -> Tensor:
        scaled = (W.float() * s).view(HIDDEN, -1, GROUP)
        scale = (scaled.abs().amax(dim=2, keepdim=True) * 2 / 15).bfloat16().float()
        rounded = (scaled / scale).round().clamp(-8, 7) * scale
        change = rounded.view(HIDDEN, HIDDEN) / s - W.float()
        return (change @ H * change).sum(dim=1)

    return Contestants(
        lambda: op(W, s, H, bits=4, group_size=GROUP, scale_dtype=torch.bfloat16),
        {"torch": lambda: lambda: loss(W, s, H), "torch.compile": compiled(loss, W, s, H)},
    )


def quantize_per_token(tokens: int) -> Contestants:
    """Activations to int8."""
    from saffron_kernels.quantize_per_token import quantize_per_token as op  # noqa: PLC0415
    from saffron_kernels.quantize_per_token import quantize_per_token_reference  # noqa: PLC0415

    x = normal(tokens, HIDDEN)

    def vllm() -> Run:
        from vllm import _custom_ops  # noqa: PLC0415 - where it is installed

        return lambda: _custom_ops.scaled_int8_quant(x)

    return Contestants(
        lambda: op(x),
        {
            "torch": lambda: lambda: quantize_per_token_reference(x),
            "torch.compile": compiled(quantize_per_token_reference, x),
            "vLLM": vllm,
        },
    )


def w8a8_gemm(tokens: int, inputs: int) -> Contestants:
    """Int8 by int8, scaled."""
    from saffron_kernels.w8a8_gemm import w8a8_gemm as op  # noqa: PLC0415

    codes, weight = (
        torch.randint(-127, 128, (rows, inputs), dtype=torch.int8, device=CARD) for rows in (tokens, HIDDEN)
    )
    scale, weight_scale = positive(tokens, 1), positive(HIDDEN, 1)

    def scaled() -> Tensor:
        return (torch._int_mm(codes, weight.T) * scale * weight_scale.T).bfloat16()  # noqa: SLF001 - it has no other name

    def vllm() -> Run:
        from vllm import _custom_ops  # noqa: PLC0415

        return lambda: _custom_ops.cutlass_scaled_mm(codes, weight.T, scale, weight_scale.T, torch.bfloat16)

    return Contestants(
        lambda: op(codes, scale, weight, weight_scale, out_dtype=torch.bfloat16),
        _dense(tokens, inputs) | {"torch._int_mm, then scaled": lambda: scaled, "vLLM CUTLASS": vllm},
    )


def fp8_gemm(tokens: int, inputs: int) -> Contestants:
    """FP8 by FP8, scaled."""
    from saffron_kernels.fp8_gemm import fp8_gemm as op  # noqa: PLC0415

    codes, weight = (normal(rows, inputs, dtype=torch.float8_e4m3fn) for rows in (tokens, HIDDEN))
    scale, weight_scale = positive(tokens, 1), positive(HIDDEN, 1)

    def scaled() -> Tensor:
        return torch._scaled_mm(codes, weight.T, scale, weight_scale.T, out_dtype=torch.bfloat16)  # noqa: SLF001

    def vllm() -> Run:
        from vllm import _custom_ops  # noqa: PLC0415

        return lambda: _custom_ops.cutlass_scaled_mm(codes, weight.T, scale, weight_scale.T, torch.bfloat16)

    return Contestants(
        lambda: op(codes, scale, weight, weight_scale, out_dtype=torch.bfloat16),
        _dense(tokens, inputs) | {"torch._scaled_mm": lambda: scaled, "vLLM CUTLASS": vllm},
    )


def w4a16_gemm(tokens: int, inputs: int) -> Contestants:
    """4-bit weights; the peers round weights of their own, of the same size."""
    from saffron_kernels.w4a16_gemm import repack_w4a16  # noqa: PLC0415
    from saffron_kernels.w4a16_gemm import w4a16_gemm as op  # noqa: PLC0415

    x = normal(tokens, inputs)
    words = torch.randint(-(2**31), 2**31 - 1, (HIDDEN, inputs // 8), dtype=torch.int32, device=CARD)
    weight = repack_w4a16(words, positive(HIDDEN, inputs // GROUP).bfloat16(), None, inputs)
    others = _dense(tokens, inputs) | {
        "vLLM Marlin": lambda: _marlin(x),
        "torchao int4 (tinygemm)": lambda: _torchao(x),
    }
    return Contestants(lambda: op(x, weight, GROUP), others)


def _dense(tokens: int, inputs: int) -> dict[str, Callable[[], Run]]:
    x, weight = normal(tokens, inputs), normal(HIDDEN, inputs)
    return {"cuBLAS in bfloat16": lambda: lambda: torch.nn.functional.linear(x, weight)}


def _marlin(x: Tensor) -> Run:
    from vllm import _custom_ops  # noqa: PLC0415
    from vllm.model_executor.layers.quantization.utils.marlin_utils import marlin_make_workspace_new  # noqa: PLC0415
    from vllm.model_executor.layers.quantization.utils.marlin_utils_test import marlin_quantize  # noqa: PLC0415
    from vllm.scalar_type import scalar_types  # noqa: PLC0415

    tokens, inputs = x.shape
    workspace = marlin_make_workspace_new(x.device)
    _, codes, scale = marlin_quantize(normal(inputs, HIDDEN), scalar_types.uint4b8, GROUP)
    return lambda: _custom_ops.marlin_gemm(
        a=x,
        c=None,
        b_q_weight=codes,
        b_bias=None,
        b_scales=scale,
        a_scales=None,
        global_scale=None,
        b_zeros=None,
        workspace=workspace,
        b_q_type=scalar_types.uint4b8,
        size_m=tokens,
        size_n=HIDDEN,
        size_k=inputs,
        use_fp32_reduce=True,
    )


def _torchao(x: Tensor) -> Run:
    from torchao.quantization import Int4WeightOnlyConfig, quantize_  # noqa: PLC0415

    linear = torch.nn.Linear(x.shape[1], HIDDEN, bias=False, dtype=torch.bfloat16, device=CARD)
    model = torch.nn.Sequential(linear)
    quantize_(model, Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d"))
    return lambda: model(x)


def _contests() -> Iterator[Contest]:
    yield Contest("hessian", f"{CALIBRATION}x{HIDDEN}", lambda: hessian(CALIBRATION))
    yield Contest("gptq_block", f"{HIDDEN}x{GROUP}", gptq_block)
    for op, make in (
        ("scale_search", scale_search),
        ("quantize_pack", quantize_pack),
        ("dequantize", dequantize),
        ("awq_loss", awq_loss),
    ):
        yield Contest(op, f"{HIDDEN}x{HIDDEN}", make)
    for tokens in TOKENS:
        yield Contest("quantize_per_token", f"{tokens}x{HIDDEN}", lambda tokens=tokens: quantize_per_token(tokens))
    for op, make, capability in (
        ("w4a16_gemm", w4a16_gemm, (8, 0)),
        ("w8a8_gemm", w8a8_gemm, (8, 0)),
        ("fp8_gemm", fp8_gemm, (8, 9)),
    ):
        for tokens in TOKENS:
            size = f"{tokens}x{HIDDEN}x{MLP}"
            yield Contest(op, size, lambda make=make, tokens=tokens: make(tokens, MLP), capability)


CONTESTS = tuple(_contests())
