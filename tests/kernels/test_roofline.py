import pytest

from saffron_kernels.binary import Binary
from saffron_kernels.cards import A100, CARDS, H100
from saffron_kernels.launch import Launch
from saffron_kernels.problem import Problem
from saffron_kernels.roofline import Occupancy, markdown, occupancy, predict, predictions


def problem(name: str = "copy 1 GB", *, bytes_: int = 10**9, flops: int = 0, unit="fp32") -> Problem:
    return Problem(name, lambda _: Launch(None, (1,), {}), bytes_, flops, unit)


def binary(programs: int = 10_000, *, warps: int = 4, registers: int = 32, shared: int = 0) -> Binary:
    return Binary(programs, warps, registers, stack=0, shared=shared, instructions={"all": 1})


@pytest.mark.parametrize(
    ("capability", "warps", "registers", "shared", "expected"),
    [
        # The two examples of NVIDIA's CUDA C++ Best Practices Guide, section "Calculating Occupancy": 37 registers,
        # blocks of 128 threads and of 320, on a card with the registers and warps of compute capability 8.0 (7.0).
        ((8, 0), 4, 37, 0, Occupancy(12, 0.75, "registers")),
        ((8, 0), 10, 37, 0, Occupancy(4, 0.625, "registers")),
        # 37 registers · 32 threads are 1184, given out as 1280: 12 warps in the 16,384 registers of each quarter, 48.
        ((8, 9), 4, 37, 0, Occupancy(12, 1.0, "warps")),
        # 255 · 32 = 8160 -> 8192: two warps a quarter, so one block of 8.
        ((9, 0), 8, 255, 0, Occupancy(1, 0.125, "registers")),
        # 72 · 32 = 2304: seven warps a quarter, each of which may be another block's.
        ((8, 0), 1, 72, 0, Occupancy(28, 28 / 64, "registers")),
        ((9, 0), 2, 72, 0, Occupancy(14, 28 / 64, "registers")),
        # 32,768 + 1,024 bytes: four times into 167,936 bytes, three times into 102,400, six times into 233,472.
        ((8, 0), 4, 32, 32768, Occupancy(4, 0.25, "shared memory")),
        ((8, 9), 4, 32, 32768, Occupancy(3, 0.25, "shared memory")),
        ((9, 0), 4, 32, 32768, Occupancy(6, 0.375, "shared memory")),
        # What a block may have at most fits once, together with what the system takes.
        ((8, 0), 4, 32, 166912, Occupancy(1, 4 / 64, "shared memory")),
        ((8, 9), 4, 32, 101376, Occupancy(1, 4 / 48, "shared memory")),
        ((9, 0), 4, 32, 232448, Occupancy(1, 4 / 64, "shared memory")),
        # Two warps of few registers: there are 32 places for blocks, 24 on compute capability 8.9.
        ((8, 9), 2, 16, 0, Occupancy(24, 1.0, "warps")),
        ((8, 9), 1, 16, 0, Occupancy(24, 0.5, "blocks")),
    ],
)
def test_occupancy_is_that_of_nvidias_calculator(capability, warps, registers, shared, expected):
    assert occupancy(capability, warps=warps, registers=registers, shared=shared) == expected


@pytest.mark.parametrize(
    ("warps", "registers", "shared", "what"), [(16, 255, 0, "registers"), (4, 32, 232_449, "shared memory")]
)
def test_a_kernel_of_which_not_one_block_fits_is_refused(warps, registers, shared, what):
    with pytest.raises(ValueError, match=f"no block fits into a multiprocessor of sm_90: its {what}"):
        occupancy((9, 0), warps=warps, registers=registers, shared=shared)


def test_what_moves_many_bytes_is_bound_by_memory():
    predicted = predict(problem(bytes_=2_039_000_000, flops=1), A100, binary())
    assert predicted is not None
    assert predicted.seconds == predicted.memory == pytest.approx(1e-3)


def test_what_computes_much_is_bound_by_the_unit_that_does_it():
    work = problem(bytes_=1, flops=989_400_000_000, unit="fp16_tensor")
    predicted = predict(work, H100, binary(programs=132 * 7))
    assert predicted is not None
    assert predicted.seconds == predicted.arithmetic == pytest.approx(1e-3)


@pytest.mark.parametrize(("programs", "slower"), [(132, 1), (66, 2), (1, 132), (133, 2 * 132 / 133), (264, 1)])
def test_the_busiest_multiprocessor_is_waited_for(programs, slower):
    work = problem(bytes_=1, flops=66_900_000_000)
    predicted = predict(work, H100, binary(programs=programs))
    assert predicted is not None
    assert predicted.arithmetic == pytest.approx(1e-3 * slower)


def test_nothing_is_predicted_for_arithmetic_that_a_card_does_not_have():
    assert predict(problem(unit="fp8_tensor"), A100, binary()) is None


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H100 80GB HBM3", H100),
        ("NVIDIA A100-SXM4-80GB", A100),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA L4", None),
    ],
)
def test_a_data_sheet_is_held_against_no_other_card(name, card):
    assert [each for each in CARDS if each.matches(name)] == ([] if card is None else [card])


def test_the_table_has_a_row_for_each_card_that_can_run_a_problem():
    table = {
        "copy 1 GB": {"sm_80": binary(), "sm_89": binary(), "sm_90": binary()},
        "fp8 4096": {"sm_80": "needs FP8", "sm_89": binary(shared=32768), "sm_90": binary(shared=32768)},
    }
    of = {
        "copy 1 GB": problem(),
        "fp8 4096": problem("fp8 4096", bytes_=10**6, flops=2 * 4096**3, unit="fp8_tensor"),
    }
    assert markdown(predictions(table, of)) == (
        "| problem | card | MB | Gop | unit | at least, µs | by | blocks/SM | occupancy | limited by |\n"
        "|---|---|---:|---:|---|---:|---|---:|---:|---|\n"
        "| copy 1 GB | A100 80GB SXM | 1000 | 0 | fp32 | 490 | memory | 16 | 100% | warps |\n"
        "| copy 1 GB | H100 SXM | 1000 | 0 | fp32 | 299 | memory | 16 | 100% | warps |\n"
        "| fp8 4096 | H100 SXM | 1 | 137.4 | fp8_tensor | 69.7 | arithmetic | 6 | 38% | shared memory |\n"
    )
