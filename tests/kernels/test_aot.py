from dataclasses import replace

import pytest

from saffron_kernels import aot
from saffron_kernels.aot import complaints, generated, main, markdown
from saffron_kernels.binary import Binary
from saffron_kernels.budget import broken_limits, grown
from saffron_kernels.launch import Launch
from saffron_kernels.problem import Problem
from saffron_kernels.problems import problems, stems

GOOD = Binary(
    programs=1024,
    warps=4,
    registers=96,
    stack=0,
    shared=32768,
    instructions={"HMMA": 32, "LDGSTS.128": 24, "STG": 8, "STG.128": 4, "all": 368},
)
NAME = "product 4096x4096"
OF = {NAME: Problem(NAME, lambda _: Launch(None, (1,), {}), 10**8, 2 * 4096**3, "fp16_tensor")}


def table(binary: Binary | str = GOOD) -> dict[str, dict[str, Binary | str]]:
    return {NAME: {"sm_80": binary, "sm_89": binary, "sm_90": binary}}


@pytest.fixture
def repository(tmp_path):
    for path, text in generated(table(), OF).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        ({}, []),
        (
            {"stack": 16},
            [
                f"{NAME}, sm_80: spills registers (96 of them, 16 bytes of stack)",
                f"{NAME}, sm_89: spills registers (96 of them, 16 bytes of stack)",
                f"{NAME}, sm_90: spills registers (96 of them, 16 bytes of stack)",
            ],
        ),
        (
            {"instructions": GOOD.instructions | {"STL": 1}},
            [
                f"{NAME}, sm_80: spills registers (96 of them, 0 bytes of stack)",
                f"{NAME}, sm_89: spills registers (96 of them, 0 bytes of stack)",
                f"{NAME}, sm_90: spills registers (96 of them, 0 bytes of stack)",
            ],
        ),
        ({"shared": 101376}, []),
        ({"shared": 101377}, [f"{NAME}, sm_89: 101377 bytes of shared memory, where a block has 101376"]),
        (
            {"shared": 232449},
            [
                f"{NAME}, sm_80: 232449 bytes of shared memory, where a block has 166912",
                f"{NAME}, sm_89: 232449 bytes of shared memory, where a block has 101376",
                f"{NAME}, sm_90: 232449 bytes of shared memory, where a block has 232448",
            ],
        ),
        (
            {"instructions": {"IMMA": 32, "all": 368}},
            [
                f"{NAME}, sm_80: is to run on fp16_tensor, but has no HGMMA or HMMA",
                f"{NAME}, sm_89: is to run on fp16_tensor, but has no HGMMA or HMMA",
                f"{NAME}, sm_90: is to run on fp16_tensor, but has no HGMMA or HMMA",
            ],
        ),
    ],
)
def test_limits_that_no_kernel_may_break(change, sentences):
    assert list(broken_limits(table(replace(GOOD, **change)), OF)) == sentences


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        ({"registers": 97}, ["registers 96 -> 97"]),
        ({"shared": 32769}, ["shared 32768 -> 32769"]),
        ({"registers": 95, "shared": 0}, []),
        ({"instructions": {"HMMA": 1, "all": 9}}, ["has no LDGSTS.128 any more", "has no STG.128 any more"]),
    ],
)
def test_figures_may_get_better_but_not_worse_than_recorded(change, sentences):
    now = {NAME: {"sm_80": replace(GOOD, **change)}}
    assert list(grown(now, table())) == [f"{NAME}, sm_80: {sentence}" for sentence in sentences]


def test_what_was_recorded_is_read_back_and_nobody_complains(repository):
    assert complaints(table(), OF, repository) == []


def test_what_got_worse_is_named_and_not_called_out_of_date(repository):
    worse = complaints(table(replace(GOOD, registers=128)), OF, repository)
    assert worse == [f"{NAME}, {arch}: registers 96 -> 128" for arch in ("sm_80", "sm_89", "sm_90")]


def test_what_got_better_is_to_be_recorded(repository):
    stale = "is out of date, though nothing is worse than it was: run python -m saffron_kernels.aot --write, look at "
    assert complaints(table(replace(GOOD, registers=80)), OF, repository) == [
        f"kernels/saffron_kernels/aot.json {stale}the difference and commit it",
        f"docs/kernels-tables.md {stale}the difference and commit it",
    ]


def test_figures_of_another_triton_are_not_compared(repository):
    path = repository / aot.RECORDED_PATH
    path.write_text(path.read_text().replace(aot.triton_version(), "3.4.0"))
    (sentence,) = complaints(table(replace(GOOD, registers=128)), OF, repository)
    assert sentence.startswith("kernels/saffron_kernels/aot.json is of Triton 3.4.0, but ")


def test_what_a_card_lacks_is_told_apart_from_what_does_not_compile(monkeypatch):
    def launch(capability):
        if capability < (8, 9):
            raise NotImplementedError("FP8 needs compute capability 8.9")
        return Launch(None, (1,), {})

    problem = Problem("fp8_gemm 16x4096", launch, 1, 1, "fp8_tensor")
    monkeypatch.setattr(aot, "problems", lambda: {problem.name: problem, **OF})
    # In this process kernels are interpreted, so that none compiles.
    why = "does not compile: RuntimeError: TRITON_INTERPRET is set in this process: kernels are interpreted here, "
    assert aot.compile_op("fp8_gemm") == (
        {"fp8_gemm 16x4096": {"sm_80": "FP8 needs compute capability 8.9"}},
        [f"fp8_gemm 16x4096, {arch}: {why}never compiled" for arch in ("sm_89", "sm_90")],
    )


def test_the_table_says_why_a_card_can_not_run_a_kernel():
    assert markdown({NAME: {"sm_80": "FP8 needs compute capability 8.9", "sm_90": GOOD}}) == (
        "| problem | architecture | programs | warps | registers | shared, bytes | instructions |\n"
        "|---|---|---:|---:|---:|---:|---|\n"
        f"| {NAME} | sm_80 | | | | | FP8 needs compute capability 8.9 |\n"
        f"| {NAME} | sm_90 | 1024 | 4 | 96 | 32768 | HMMA 32, LDGSTS.128 24, STG 8, STG.128 4, all 368 |\n"
    )


def test_the_command_refuses_to_run_where_kernels_are_interpreted(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--check"])
    assert ended.value.code == 2
    assert "TRITON_INTERPRET is set" in capsys.readouterr().err


def test_every_kernel_has_problems_and_every_problem_is_of_an_op_of_its_name():
    assert {problem.op for problem in problems().values()} >= set(stems())
