import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from saffron_kernels.binary import compile_launch, count_instructions
from saffron_kernels.launch import Launch

KERNELS = Path(__file__).with_name("compiled_kernels.py")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Any:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    del environment["TRITON_INTERPRET"]
    done = subprocess.run([sys.executable, "-P", KERNELS], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_tensor_of_the_meta_device_is_specialised_as_one_in_a_cards_memory(compiled):
    sixteen_divides = [["tt.divisibility", 16]]
    assert compiled["card"] == {
        "types": {
            "x": "*bf16",
            "y": "*bf16",
            "given": "constexpr",
            "n": "i32",
            "stride": "constexpr",
            "factor": "fp32",
            "BLOCK": "constexpr",
        },
        "attributes": {"x": sixteen_divides, "y": sixteen_divides, "n": sixteen_divides},
        "constants": {"given": None, "stride": 1, "BLOCK": 1024},
    }
    assert compiled["meta"] == compiled["card"]


@pytest.mark.parametrize(
    ("launch", "wide"),
    [("aligned", {"LDG.128", "STG.128"}), ("shifted", {"LDG", "STG"}), ("strided", {"LDG", "STG"})],
)
def test_memory_is_read_16_bytes_at_once_only_where_addresses_allow_it(compiled, launch, wide):
    assert compiled["binaries"][launch]["instructions"].keys() == wide | {"all"}


@pytest.mark.parametrize(("card", "unit"), [("sm_80", "HMMA"), ("sm_89", "HMMA"), ("sm_90", "HGMMA")])
def test_a_product_runs_on_each_cards_tensor_cores_and_is_fed_by_asynchronous_copies(compiled, card, unit):
    binary = compiled["binaries"][f"product on {card}"]
    assert {unit, "LDGSTS.128"} <= binary["instructions"].keys()
    assert (binary["programs"], binary["warps"], binary["stack"]) == (64 * 64, 4, 0)
    # Tiles of 64 x 64 float16 of both operands, twice: one is multiplied while another comes in.
    assert binary["shared"] >= 2 * 2 * 64 * 64 * 2


def test_spilled_registers_are_seen_as_stack_and_as_local_memory(compiled):
    binary = compiled["binaries"]["spilling"]
    assert binary["stack"] > 0
    assert {"LDL", "STL"} <= binary["instructions"].keys()


def test_where_a_bit_must_not_differ_quotients_and_roots_are_rounded_as_ieee_has_it_and_nothing_is_fused(compiled):
    # The interpreter can not tell them from approximate ones. Only these two sum floats in an order of their own.
    others = {
        name: operations
        for name, operations in compiled["float operations"].items()
        if "sum of" in name or not name.startswith(("hessian ", "w4a16_gemm "))
    }
    assert others.pop("scale_search by a power of 2.5") == ["div.rn.f32", "sqrt.rn.f32"]
    assert {operation for operations in others.values() for operation in operations} == {"div.rn.f32"}
    exact = {"awq_loss", "gptq_block", "quantize_fp8", "quantize_pack", "quantize_per_token", "scale_search"}
    assert exact <= {name.split()[0] for name, operations in others.items() if "div.rn.f32" in operations}


def test_the_driver_is_what_it_was_even_after_a_kernel_that_does_not_compile(compiled):
    assert compiled["raised"] == "CompilationError"
    assert compiled["driver is as before"]


def test_nothing_is_compiled_where_kernels_are_interpreted():
    launch = Launch(None, (1,), {})
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET is set"):
        compile_launch(launch, (8, 0))


def test_instructions_are_counted_by_name_and_width_whether_or_not_they_are_predicated():
    assembly = """
        .section .text.kernel,"ax",@progbits
        .type kernel,@function
kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*00f0*/              @!P0 LDG.E.128 R4, desc[UR4][R10.64] ;
        /*0100*/              @P1  LDG.E.64.CONSTANT R4, desc[UR4][R10.64] ;
        /*0110*/                   LDGSTS.E.BYPASS.LTC128B.128 [R13], [R2.64] ;
        /*0120*/             @!UP0 UIADD3 UR4, UR4, 0x1, URZ ;
        /*0130*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0140*/                   LDS.128 R4, [R8] ;
        /*10150*/                  EXIT ;
.L_x_0:
"""
    counted = {"HMMA": 1, "LDG": 1, "LDG.128": 1, "LDGSTS.128": 1, "all": 8}
    assert count_instructions(assembly) == counted
