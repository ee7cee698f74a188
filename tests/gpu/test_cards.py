"""What only a card can show. Run by `make gpu`; names come from the recorded table, since importing Triton here would
be too early for the tests that run it interpreted."""

import json
from importlib.resources import files

import pytest
import torch
from gpucases import CASES, Case

from saffron_kernels.launch import with_tensors_on

pytestmark = pytest.mark.gpu

RECORDED = json.loads((files("saffron_kernels") / "aot.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.stem}: {case.name}")
def test_an_op_on_a_card_gives_what_its_reference_gives(card: torch.device, case: Case):
    if torch.cuda.get_device_capability() < case.capability:
        pytest.skip(f"needs compute capability {case.capability}")
    assert case.differences(card) == []


@pytest.mark.parametrize("name", RECORDED["kernels"])
def test_what_runs_on_a_card_is_what_was_compiled_without_one(card: torch.device, name: str):
    from saffron_kernels.binary import compile_absent  # noqa: PLC0415 - see above
    from saffron_kernels.problems import problems  # noqa: PLC0415

    capability = torch.cuda.get_device_capability()
    try:
        launch = problems()[name].launch(capability)
    except NotImplementedError as reason:
        pytest.skip(str(reason))
    real = with_tensors_on(card, launch)
    assert real.compile().asm["cubin"] == compile_absent(launch, capability).asm["cubin"]
    real.run()
    torch.cuda.synchronize()
