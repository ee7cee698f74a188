"""GPTQ towards the original's outputs: the weights that are rounded instead, and the inputs that they are made from."""

import pytest
import torch
from tinymodels.checkpoints import checkpoint_of

from saffron_api.candidate import CandidateSpec
from saffron_kernels.hessian import hessian_finish
from saffron_quantizer.algorithms.correction import corrected
from saffron_quantizer.algorithms.gptq import Order, factorize
from saffron_quantizer.algorithms.quantized import Grid
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.models.calibration import BlockCalibration
from saffron_quantizer.models.originals import advance_and_keep
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.plan import make_plan
from saffron_quantizer.round_linears import gptq_linears

ORDERS = pytest.mark.parametrize("order", list(Order), ids=lambda order: order.value)


def inputs(rows, columns, seed, *, dead=0, tokens=400):
    """Weights, what the original's linear reads, and what ours does: another, correlated version of it."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) * torch.logspace(-1, 0.5, columns)
    original = torch.randn(tokens, columns, generator=generator) @ mix
    X = original + 0.3 * torch.randn(tokens, columns, generator=generator) @ mix.roll(3, 0)
    X[:, :dead] = 0
    return torch.randn(rows, columns, generator=generator), original, X


def statistics(original, X):
    """The Hessian of X, and (X̃ - X)ᵀX on the same scale."""
    return hessian_finish(X.T @ X, len(X)), (original - X).T @ X * 2 / len(X)


@ORDERS
@pytest.mark.parametrize(("rows", "columns", "dead"), [(1, 1, 0), (5, 37, 2), (3, 96, 0)])
def test_the_whole_correction_is_ridge_regression_on_the_originals_outputs(rows, columns, dead, order):
    W, original, X = inputs(rows, columns, columns, dead=dead)
    H, drift = statistics(original, X)
    factor = factorize(H, order)
    # min over V of 2/n |X̃ Wᵀ - X Vᵀ|² + (V - W) D (V - W)ᵀ, in float64.
    D, scale = factor.added.double().diag(), 2 / len(X)
    x = X.double()
    right = scale * W.double() @ original.double().T @ x + W.double() @ D
    expected = torch.linalg.solve(scale * x.T @ x + D, right, left=False)
    found = corrected(W, W @ drift, factor, share=1.0)
    # float32 through a Cholesky factor of a matrix with a condition number of about 100.
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(found[:, :dead], W[:, :dead])


@ORDERS
def test_no_share_of_the_correction_leaves_the_weights_and_half_of_it_is_half_way(order):
    W, original, X = inputs(4, 64, 0)
    before = W.clone()
    H, drift = statistics(original, X)
    factor = factorize(H, order)
    none, half, whole = (corrected(W, W @ drift, factor, share=share) for share in (0.0, 0.5, 1.0))
    assert torch.equal(none, W)
    torch.testing.assert_close(half, (W + whole) / 2)
    assert torch.equal(W, before)


@pytest.mark.parametrize("seed", range(3))
def test_towards_the_original_less_of_its_output_is_lost(seed):
    W, original, X = inputs(8, 64, seed)
    H, drift = statistics(original, X)
    grid = Grid(4, 32, torch.float32)

    def lost(drift):
        (linear,) = gptq_linears({"q": W}, H, grid, None, None, drift=drift)
        return float((original @ W.T - X @ linear.quantized.dequantize().T).square().sum())

    assert lost(drift) < lost(None)


def test_where_both_read_the_same_nothing_is_corrected():
    W, _, X = inputs(8, 64, 0)
    H, _ = statistics(X, X)
    grid = Grid(4, 32, torch.float32)
    plain, towards = (gptq_linears({"q": W}, H, grid, None, None, drift=drift) for drift in (None, torch.zeros_like(H)))
    assert torch.equal(plain[0].quantized.codes, towards[0].quantized.codes)
    assert plain[0].note == towards[0].note


def test_what_is_apart_is_summed_over_the_tokens_and_not_over_padding(tiny_model):
    stream = ModelStream.open(tiny_model("Llama"))
    generator = torch.Generator().manual_seed(0)
    sequences = [torch.randint(3, 97, (length,), generator=generator) for length in (40, 7, 33)]
    walk = stream.walk(sequences)
    original = walk.fork()
    for number, state in enumerate(original.states):
        walk.states[number] = state + 0.1 * torch.randn(state.shape, generator=generator)
    linear = "mlp.gate_proj"
    with stream.loaded(0):
        kept = advance_and_keep(original, 0, [linear])
        found = BlockCalibration(walk, 0).gram(linear, kept[linear])
        fitted = advance_and_keep(walk, 0, [linear])
    drift, gram = torch.zeros(64, 64), torch.zeros(64, 64)
    for batch, ours, theirs in zip(walk.batches, fitted[linear], kept[linear], strict=True):
        x, x_original = ours[batch.real], theirs[batch.real]
        drift += (x_original - x).T @ x
        gram += x.T @ x
    torch.testing.assert_close(found.drift, drift)
    torch.testing.assert_close(found.sum.tril(), gram.tril())
    assert found.tokens == sum(map(len, sequences))


def test_the_walk_through_the_original_goes_on_as_any_other(tiny_model):
    stream = ModelStream.open(tiny_model("Llama"))
    walk = stream.walk([torch.arange(3, 30)])
    other = walk.fork()
    with stream.loaded(0):
        advance_and_keep(walk, 0, ["self_attn.q_proj"])
        other.advance(0)
    assert torch.equal(walk.states[0], other.states[0])


@pytest.mark.parametrize(
    ("architecture", "target", "compared"),
    [
        ("Llama", "Original", [f"{part}_proj" for part in ("self_attn.q", "self_attn.o", "mlp.gate", "mlp.down")]),
        ("Mixtral", "Original", ["self_attn.q_proj", "self_attn.o_proj"]),
        ("Llama", "Own", []),
    ],
    ids=["each input of a block", "none of an expert", "none where the target is its own"],
)
def test_the_original_is_looked_at_for(tiny_model, architecture, target, compared):
    spec = CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32, target=target)
    assert make_plan(CheckpointReader(tiny_model(architecture)), spec).compared(0) == compared


def test_activations_of_both_walks_in_a_file_change_no_byte(tiny_model, tmp_path):
    spec = CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32, target="Original")
    digests = {
        checkpoint_of(
            tiny_model("Mixtral"),
            spec,
            tmp_path / str(budget),
            [torch.arange(3, length) for length in (40, 20)],
            activation_memory=budget,
        ).checkpoint_digest
        for budget in (0, 10**9)
    }
    assert len(digests) == 1
