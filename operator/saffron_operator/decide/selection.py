"""Which of the candidates that pass is rolled out, and what to say where none does."""

import math
from collections.abc import Sequence

from saffron_api.quantized_model import (
    CandidateStatus,
    QuantizedModelSpec,
    SelectedStatus,
    Selection,
    Verdict,
)
from saffron_api.results import FigureName
from saffron_operator import reasons
from saffron_operator.decide.candidates import Prospect
from saffron_operator.decide.inputs import Inputs, Standing

NEAR = 1.01
"""Checkpoints within 1 % of the fewest bytes count as equally small."""


def select(spec: QuantizedModelSpec, candidates: Sequence[CandidateStatus]) -> SelectedStatus | None:
    """Return the candidate to roll out, or None where none passed.

    With the chance that was asked for, none of them passed wrongly (Bonferroni), so any rule may choose among them.
    """
    passed = [each for each in candidates if each.verdict is Verdict.PASS and each.checkpoint_digest is not None]
    if not passed:
        return None
    if spec.selection is Selection.SMALLEST:
        fewest = min(_bytes(each) for each in passed)
        near = [each for each in passed if _bytes(each) <= fewest * NEAR]
        chosen = min(near, key=_divergence)  # the first of equals: the author's order
    else:
        chosen = min(passed, key=lambda each: (_divergence(each), _bytes(each)))
    digest = chosen.checkpoint_digest or ""
    store = spec.storage.checkpoints
    return SelectedStatus(
        name=chosen.name, checkpoint_digest=digest, uri=f"pvc://{store.claim_name}/{store.path}/{digest}"
    )


def _bytes(candidate: CandidateStatus) -> float:
    return math.inf if candidate.bytes is None else candidate.bytes


def _divergence(candidate: CandidateStatus) -> float:
    """Return the upper bound of the divergence: the quality that is certain."""
    return next((f.upper for f in candidate.figures if f.name is FigureName.KL_DIVERGENCE), math.inf)


def none_passed(inputs: Inputs, prospects: Sequence[Prospect]) -> Standing:
    """Return the standing of a run of which no candidate passed."""
    taken = next((each.status for each in prospects if each.status.reason == reasons.NAME_TAKEN), None)
    if taken is not None:
        return inputs.stalled(reasons.NAME_TAKEN, taken.message or "")
    each_one = "; ".join(f"{each.status.name}: {_why(each.status)}" for each in prospects)
    if not any(each.status.verdict is Verdict.INCONCLUSIVE for each in prospects):
        return inputs.stalled(
            reasons.NO_CANDIDATE_PASSED,
            f"None of {len(prospects)} candidates passed ({each_one}). Loosen spec.gates, which needs no new Job, or "
            "add candidates.",
        )
    needed = [each.units_needed for each in prospects if each.units_needed is not None]
    data = (
        f"about {min(needed)} conversations in the gate set would settle one; raise spec.evaluation.samples"
        if needed
        else "more data or a looser limit in spec.gates is needed"
    )
    return inputs.stalled(
        reasons.INCONCLUSIVE, f"No candidate is shown to pass, and not all to fail ({each_one}): {data}."
    )


def _why(candidate: CandidateStatus) -> str:
    """Return what kept a candidate from passing, in a few words."""
    if candidate.verdict in (None, Verdict.ERROR):
        return f"{candidate.state} {candidate.reason or ''}".rstrip()
    gates = [
        f"{f.name} {f.value:.4g} [{f.lower:.4g}, {f.upper:.4g}] against {f.limit:g}"
        for f in candidate.figures
        if f.verdict not in (None, Verdict.PASS) and f.limit is not None
    ]
    return f"{candidate.verdict}, {', '.join(gates) or 'a figure is missing'}"
