import sys
from types import ModuleType

import pytest
import torch

import saffron_kernels
from saffron_kernels import problems as registry
from saffron_kernels.launch import Launch, with_tensors_on
from saffron_kernels.problem import Problem


def problem(name: str) -> Problem:
    return Problem(name, lambda _: Launch(None, (1,), {}), 1, 1, "fp32")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two stems and of a module that their kernels share."""
    for stem in ("scale", "gemm"):
        (tmp_path / f"{stem}.py").touch()
        module = ModuleType(f"saffron_kernels.{stem}_triton")
        module.PROBLEMS = (problem(f"{stem} 16x16"), problem(f"{stem} 32x32"))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        (tmp_path / f"{stem}_triton.py").touch()
    (tmp_path / "shared_triton.py").touch()
    monkeypatch.setattr(saffron_kernels, "__path__", [str(tmp_path)])


@pytest.mark.usefixtures("package")
def test_problems_are_gathered_stem_by_stem():
    assert registry.stems() == ["gemm", "scale"]
    assert list(registry.problems()) == ["gemm 16x16", "gemm 32x32", "scale 16x16", "scale 32x32"]
    assert {problem.op for problem in registry.problems().values()} == {"gemm", "scale"}


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("listed", "message"),
    [((), "scale_triton lists no problem"), ((problem("gemm 16x16"),), "two problems are called 'gemm 16x16'")],
)
def test_a_kernel_without_a_problem_of_its_own_is_refused(monkeypatch, listed, message):
    monkeypatch.setattr(sys.modules["saffron_kernels.scale_triton"], "PROBLEMS", listed)
    with pytest.raises(ValueError, match=message):
        registry.problems()


def test_a_product_and_a_sum_are_fused_only_where_no_bit_is_promised():
    fused = {name.split()[0] for name, each in registry.problems().items() if each.launch((9, 0)).fp_fusion}
    assert fused == {"hessian", "w4a16_gemm"}


def test_tensors_of_the_meta_device_are_made_real_as_they_lie():
    meta = {
        "x": torch.empty(8, 6, dtype=torch.bfloat16, device="meta").T,
        "codes": torch.empty(64, dtype=torch.int8, device="meta"),
        "order": torch.empty(5, dtype=torch.int32, device="meta"),
        "fp8": torch.empty(4, 4, dtype=torch.float8_e4m3fn, device="meta"),
    }
    real = with_tensors_on(torch.device("cpu"), Launch(None, (1,), {**meta, "none": None, "BLOCK": 16})).arguments
    assert (real["none"], real["BLOCK"]) == (None, 16)
    for name, tensor in meta.items():
        assert (real[name].dtype, real[name].shape, real[name].stride()) == (
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
        )
    assert real["x"].float().std() > 0
    assert set(real["codes"].tolist()) <= set(range(-8, 8))
    assert real["order"].tolist() == [0] * 5
