"""A QuantizedModel of which the API server does not show all that a pass needs: nothing can be decided, only told."""

from datetime import datetime

from saffron_api.quantized_model import QuantizedModelSpec, QuantizedModelStatus
from saffron_operator import reasons
from saffron_operator.decide.conditions import READY, RECONCILING, STALLED, of_standing, stamped
from saffron_operator.decide.events import transition
from saffron_operator.decide.inputs import Kind, Standing, clip
from saffron_operator.decision import Decision
from saffron_operator.observed import ResourceMeta, SpecError

_OF_A_STANDING = frozenset({READY, RECONCILING, STALLED})


def unseen(
    meta: ResourceMeta,
    spec: QuantizedModelSpec | SpecError,
    status: QuantizedModelStatus | None,
    why: str,
    now: datetime,
) -> Decision:
    """Return the decision to tell that nothing goes on, and to leave all else of the status as it stands.

    Args:
        meta: Of the QuantizedModel.
        spec: Of the QuantizedModel.
        status: As it stands; None where it can't be read.
        why: What the API server said.
        now: The time, with its zone.
    """
    if meta.deleting or (isinstance(spec, QuantizedModelSpec) and spec.suspend):
        return Decision(status=None)  # there is nothing to do that the right is needed for
    before = status or QuantizedModelStatus()
    message = (
        f"Saffron is not shown what it has to read ({why}). Give the operator that right again, as the chart's "
        "ClusterRole and RoleBinding do; it tries again by itself."
    )
    standing = Standing(Kind.STALLED, reasons.REFUSED, clip(message), "Stalled")
    told = stamped(of_standing(standing), tuple(before.conditions), meta.generation, now.replace(microsecond=0))
    milestones = [each for each in before.conditions if each.type not in _OF_A_STANDING]
    shown = {
        "observed_generation": meta.generation,
        "phase": standing.phase,
        "conditions": [*told, *milestones],
    }
    return Decision(
        before.model_copy(update=shown),
        events=transition(tuple(before.conditions), told, stalled=True),
        idle=True,
    )
