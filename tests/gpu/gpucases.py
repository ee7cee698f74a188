"""What each op is given on a card, and how far from its reference it may be there.

Shapes are odd, since that is where tiles end. Everything is made on the CPU, where the reference runs.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

EXACT = 0.0
FLOAT32_SUM = 1e-5
"""Sums of a thousand products in another order: some √1000 roundings of 2⁻²⁴ each, and room for ten times as many."""
ROUNDED = {torch.float32: FLOAT32_SUM, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
"""Of the largest number: a sum beside the middle of two numbers of the type may be rounded to either."""
FP8 = (8, 9)

Run = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        stem: the op's module in `saffron_kernels`.
        name: what is special.
        make: the arguments.
        run: given the op's module and the arguments, what the op returns.
        reference: likewise, what it should return.
        tolerance: largest difference, as a part of the reference's largest magnitude; 0 is equal bit by bit.
        capability: the first compute capability that can do it.
    """

    stem: str
    name: str
    make: Callable[[], tuple[Any, ...]]
    run: Run
    reference: Run
    tolerance: float = EXACT
    capability: tuple[int, int] = (8, 0)

    def differences(self, device: torch.device) -> list[str]:
        """Run the op on the device, and tell how it differs from the reference; nothing where it is near enough."""
        module = importlib.import_module(f"saffron_kernels.{self.stem}")
        results = _tensors(self.run(module, *(_moved(argument, device) for argument in self.make())))
        expected = _tensors(self.reference(module, *self.make()))
        assert len(results) == len(expected)
        pairs = enumerate(zip(results, expected, strict=True))
        return [
            f"result {number}: {why}" for number, (got, right) in pairs for why in self._difference(got.cpu(), right)
        ]

    def _difference(self, got: Tensor, right: Tensor) -> list[str]:
        if (got.dtype, got.shape) != (right.dtype, right.shape):
            return [f"{got.dtype} {list(got.shape)} instead of {right.dtype} {list(right.shape)}"]
        error = (got.double() - right.double()).abs()
        allowed = self.tolerance * right.double().abs().max()
        # Written so that what is not a number is wrong, too.
        wrong = int((~(error <= allowed)).sum())
        return (
            [f"{wrong} of {error.numel()} differ, by up to {error.max():.3g} where {allowed:.3g} is allowed"]
            if wrong
            else []
        )


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _tensors(result: Any) -> list[Tensor]:
    parts = (result,) if isinstance(result, Tensor) else result
    return [part for part in parts if part is not None]


def op(name: str, **keywords: Any) -> tuple[Run, Run]:
    """An op and its reference, which take the same arguments."""
    return (
        lambda module, *arguments: getattr(module, name)(*arguments, **keywords),
        lambda module, *arguments: getattr(module, f"{name}_reference")(*arguments, **keywords),
    )


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def integers(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int8, seed: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def positive(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return normal(*shape).abs().add(0.5).to(dtype)


def column_by_column(tensor: Tensor) -> Tensor:
    """The same matrix as AWQ's clipping leaves scales, laid out the other way; a copy to a card keeps that."""
    return tensor.T.contiguous().T


def hessian_cases() -> list[Case]:
    def added(name: str) -> Run:
        def run(module: Any, X: Tensor, H: Tensor) -> Tensor:
            getattr(module, name)(X, H)
            return module.hessian_finish(H, X.shape[-2])

        return run

    shapes = {"odd": (1001, 259), "batched": (3, 200, 130), "one token": (1, 64)}
    return [
        Case(
            "hessian",
            f"{name} {str(dtype).removeprefix('torch.')}",
            lambda shape=shape, dtype=dtype: (normal(*shape, dtype=dtype), normal(*shape[:-2], shape[-1], shape[-1])),
            added("hessian"),
            added("hessian_reference"),
            FLOAT32_SUM,
        )
        for name, shape in shapes.items()
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    ]


def gptq_block_cases() -> list[Case]:
    def make(rows: int, columns: int, groups: int, bits: int, *, zeros: bool, items: int = 1) -> tuple[Any, ...]:
        U = torch.triu(normal(items, columns, columns) * 0.1, 1) + torch.diag_embed(positive(items, columns))
        zero = integers(-3, 4, items, rows, groups, dtype=torch.float32) if zeros else None
        order = integers(0, groups, items, columns, dtype=torch.int32, seed=1)
        scale = positive(items, rows, groups) * 0.1
        return normal(items, rows, columns), U, scale, zero, order, -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    return [
        Case("gptq_block", name, make_arguments, *op("gptq_block"))
        for name, make_arguments in {
            "128 columns of one group": lambda: make(257, 128, 1, 4, zeros=False),
            "32 columns of one group": lambda: make(100, 32, 1, 4, zeros=False),
            "odd columns of mixed groups, zero points": lambda: make(67, 77, 5, 4, zeros=True),
            "8 bits, three modules": lambda: make(33, 64, 2, 8, zeros=False, items=3),
            "one row": lambda: make(1, 128, 4, 3, zeros=True),
        }.items()
    ]


def scale_search_cases() -> list[Case]:
    factors = [1.0, 0.95, 0.9, 0.8, 0.7]

    def case(name: str, dtype: torch.dtype, *, importance: bool = False, **changes: Any) -> Case:
        keywords = {"bits": 4, "group_size": 32, "scale_dtype": dtype, "symmetric": True} | changes
        return Case(
            "scale_search",
            name,
            lambda: (normal(37, 96, dtype=dtype), factors, positive(96) if importance else None),
            *op("scale_search", **keywords),
        )

    return [
        case("float32", torch.float32),
        case("bfloat16 with importance", torch.bfloat16, importance=True),
        case("float16 with zero points", torch.float16, symmetric=False),
        case("a row is a group, 8 bits", torch.bfloat16, bits=8, group_size=None),
        case("the fourth power", torch.float32, importance=True, exponent=4.0),
    ]


def quantize_pack_cases() -> list[Case]:
    def case(layout: str, bits: int, rows: int, columns: int, *, zeros: bool = False) -> Case:
        def make() -> tuple[Any, ...]:
            zero = column_by_column(integers(-4, 4, rows, columns // 32)) if zeros else None
            scale = column_by_column(positive(rows, columns // 32) / 4)
            return normal(rows, columns, dtype=torch.bfloat16), scale, zero, bits

        def called(name: str) -> Run:
            return lambda module, *arguments: getattr(module, name)(*arguments, module.Layout(layout))

        name = f"{layout}, {bits} bits, {rows}x{columns}"
        return Case("quantize_pack", name, make, called("quantize_pack"), called("quantize_pack_reference"))

    return [
        case("codes", 4, 37, 96),
        case("compressed-tensors", 4, 37, 96),
        case("compressed-tensors", 8, 130, 256),
        case("gptq", 4, 40, 96, zeros=True),
        case("autoawq", 4, 40, 96, zeros=True),
        Case(
            "quantize_pack",
            "FP8",
            lambda: (normal(37, 100, dtype=torch.bfloat16), positive(37, 1) / 500),
            *op("quantize_fp8"),
            capability=FP8,
        ),
    ]


def dequantize_cases() -> list[Case]:
    def case(layout: str, bits: int, dtype: torch.dtype, *, zeros: bool = False) -> Case:
        rows, columns, groups = 40, 96, 3
        shapes = {"compressed-tensors": (rows, columns * bits // 32), "autoawq": (columns, rows * bits // 32)}

        def make() -> tuple[Any, ...]:
            codes = integers(-8, 8, rows, columns)
            words = integers(-(2**31), 2**31, *shapes.get(layout, ()), dtype=torch.int32)
            zero = column_by_column(integers(-4, 4, rows, groups)) if zeros else None
            scale = column_by_column(positive(rows, groups, dtype=dtype))
            return codes if layout == "codes" else words, scale, zero, columns

        def called(name: str) -> Run:
            return lambda module, *arguments: getattr(module, name)(*arguments, bits=bits, layout=module.Layout(layout))

        name = f"{layout}, {bits} bits, {str(dtype).removeprefix('torch.')}"
        return Case("dequantize", name, make, called("dequantize"), called("dequantize_reference"))

    return [
        case("codes", 8, torch.float32),
        case("compressed-tensors", 4, torch.bfloat16),
        case("compressed-tensors", 8, torch.float16, zeros=True),
        case("autoawq", 4, torch.bfloat16, zeros=True),
    ]


def awq_loss_cases() -> list[Case]:
    def case(rows: int, columns: int, size: int, dtype: torch.dtype, *, symmetric: bool) -> Case:
        def make() -> tuple[Any, ...]:
            X = normal(2 * columns, columns)
            return normal(rows, columns, dtype=dtype, seed=1), positive(columns), column_by_column(X.T @ X)

        keywords = {"bits": 4, "group_size": size, "scale_dtype": dtype, "symmetric": symmetric}
        name = f"{rows}x{columns} {str(dtype).removeprefix('torch.')} groups of {size}"
        return Case("awq_loss", name, make, *op("awq_loss", **keywords), FLOAT32_SUM)

    return [
        case(37, 256, 128, torch.bfloat16, symmetric=True),
        case(70, 96, 32, torch.float16, symmetric=False),
        case(1, 64, 64, torch.float32, symmetric=True),
    ]


def quantize_per_token_cases() -> list[Case]:
    cases = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")

        def make(dtype: torch.dtype = dtype) -> tuple[Tensor]:
            return (torch.cat([normal(33, 1000, dtype=dtype), torch.zeros(1, 1000, dtype=dtype)]),)

        cases += [
            Case("quantize_per_token", f"int8 of {name}", make, *op("quantize_per_token")),
            Case("quantize_per_token", f"FP8 of {name}", make, *op("quantize_per_token_fp8"), capability=FP8),
        ]
    return cases


def w8a8_gemm_cases() -> list[Case]:
    def case(M: int, N: int, K: int, dtype: torch.dtype, *, bias: bool) -> Case:
        def make() -> tuple[Any, ...]:
            codes, weight = integers(-127, 128, M, K), integers(-127, 128, N, K, seed=1)
            return codes, positive(M, 1) / 127, weight, positive(N, 1) / 127, normal(N) if bias else None

        return Case("w8a8_gemm", _shape(M, N, K, dtype), make, *op("w8a8_gemm", out_dtype=dtype))

    return [
        case(1, 129, 256, torch.bfloat16, bias=False),
        case(17, 100, 1000, torch.float16, bias=True),
        case(33, 257, 130, torch.float32, bias=True),
        case(200, 384, 512, torch.bfloat16, bias=True),
    ]


def fp8_gemm_cases() -> list[Case]:
    def case(M: int, N: int, K: int, dtype: torch.dtype, *, bias: bool) -> Case:
        def make() -> tuple[Any, ...]:
            codes = normal(M, K, dtype=torch.float8_e4m3fn)
            weight = normal(N, K, dtype=torch.float8_e4m3fn, seed=1)
            return codes, positive(M, 1), weight, positive(N, 1), normal(N) if bias else None

        run = op("fp8_gemm", out_dtype=dtype)
        return Case("fp8_gemm", _shape(M, N, K, dtype), make, *run, max(ROUNDED[dtype], _FP8_SUM), FP8)

    return [
        case(1, 128, 256, torch.bfloat16, bias=False),
        case(17, 112, 1008, torch.float16, bias=True),
        case(33, 272, 144, torch.float32, bias=True),
        case(200, 384, 512, torch.bfloat16, bias=True),
    ]


_FP8_SUM = 1e-3
"""Tensor cores of compute capability 9.0 sum FP8 products with some 14 bits, over 128 columns at a time."""


def w4a16_gemm_cases() -> list[Case]:
    def run(module: Any, x: Tensor, bias: Tensor | None, size: int, *weight: Any) -> Tensor:
        return module.w4a16_gemm(x, module.repack_w4a16(*weight, x.shape[1]), size, bias=bias)

    def reference(module: Any, x: Tensor, bias: Tensor | None, size: int, *weight: Any) -> Tensor:
        return module.w4a16_gemm_reference(x, *weight, size, bias=bias)

    def case(M: int, N: int, K: int, size: int, dtype: torch.dtype, *, zeros: bool = False, bias: bool = False) -> Case:
        def words(*shape: int, seed: int) -> Tensor:
            return integers(-(2**31), 2**31, *shape, dtype=torch.int32, seed=seed)

        def make() -> tuple[Any, ...]:
            scale = positive(N, K // size, dtype=dtype)
            zero = words(-(-N // 8), K // size, seed=1) if zeros else None
            return normal(M, K, dtype=dtype), normal(N) if bias else None, size, words(N, K // 8, seed=2), scale, zero

        what = f"{_shape(M, N, K, dtype)} groups of {size}{', zero points' if zeros else ''}"
        return Case("w4a16_gemm", what, make, run, reference, ROUNDED[dtype])

    return [
        case(1, 129, 512, 128, torch.bfloat16),
        case(1, 1000, 2048, 128, torch.bfloat16),
        case(17, 100, 256, 32, torch.float16, zeros=True, bias=True),
        case(33, 257, 384, 64, torch.float32),
        case(200, 384, 512, 128, torch.bfloat16, zeros=True),
        case(5, 64, 144, 144, torch.float16),
    ]


def _shape(M: int, N: int, K: int, dtype: torch.dtype) -> str:
    return f"{M}x{N}x{K} {str(dtype).removeprefix('torch.')}"


_ALL = [
    *hessian_cases(),
    *gptq_block_cases(),
    *scale_search_cases(),
    *quantize_pack_cases(),
    *dequantize_cases(),
    *awq_loss_cases(),
    *quantize_per_token_cases(),
    *w8a8_gemm_cases(),
    *fp8_gemm_cases(),
    *w4a16_gemm_cases(),
]
CASES = [case for case in _ALL if importlib.util.find_spec(f"saffron_kernels.{case.stem}_triton")]
"""Those of ops that have a kernel for cards."""
