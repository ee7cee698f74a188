"""A processor that computes a bfloat16 model in float32: what is kept in bfloat16 is rounded in every pass."""

import pytest
import torch
from tinymodels.configs import SPECIAL

from saffron_api.candidate import CandidateSpec
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.models.calibration import BlockCalibration
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.plan import make_plan

pytestmark = pytest.mark.usefixtures("without_fast_bfloat16")

GPTQ = CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32)


def sequences(*lengths):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 97, (length,), generator=generator) for length in lengths]


def handed_on(folder, *, calibrated):
    """What the first block hands on, passed through once, or again and again up to each of its linears."""
    stream = ModelStream.open(folder)
    walk = stream.walk(sequences(40, 33, 5))
    with stream.loaded(0):
        if calibrated:
            calibration = BlockCalibration(walk, 0)
            for group in make_plan(CheckpointReader(folder), GPTQ).groups[0]:
                calibration.gram(group[0])
            calibration.advance()
        else:
            walk.advance(0)
    return list(walk.states)


@pytest.mark.parametrize("name", SPECIAL)
def test_a_block_hands_on_the_same_bits_whether_it_is_calibrated_or_passed_through(tiny_model, name):
    folder = tiny_model(name, dtype=torch.bfloat16)
    calibrated, passed = (handed_on(folder, calibrated=each) for each in (True, False))
    assert [each.dtype for each in passed] == [torch.float32] * len(passed)
    assert all(torch.equal(one, other) for one, other in zip(calibrated, passed, strict=True))


def test_rounding_moves_no_more_than_that_of_bfloat16_does(tiny_model):
    folder = tiny_model("Llama", dtype=torch.bfloat16)
    with_rounding, without = ModelStream.open(folder), ModelStream.open(folder, dtype=torch.float32)
    assert [(each.dtype, each.kept) for each in (with_rounding, without)] == [
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float32),
    ]
    rounded, exact = (each.final_hidden(sequences(40))[0] for each in (with_rounding, without))
    # Each of bfloat16's roundings is by up to 2^-9; two blocks have some twenty.
    assert 0 < float((rounded - exact).norm() / exact.norm()) < 20 * 2**-9
