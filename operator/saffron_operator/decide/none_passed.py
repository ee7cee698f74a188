"""What to say of a run of which no candidate passed."""

from collections.abc import Sequence

from saffron_api.quantized_model import CandidateStatus, Verdict
from saffron_operator import reasons
from saffron_operator.decide.candidates import Prospect
from saffron_operator.decide.inputs import Inputs, Standing


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
