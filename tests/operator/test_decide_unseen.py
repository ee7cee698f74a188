"""What is told where the API server does not show all that a pass needs: why, beside all that stood there."""

from datetime import timedelta

import pytest
from deciding import builders
from deciding.world import World

from saffron_operator.decide import unseen
from saffron_operator.observed import SpecError

WHY = 'GET /pods: 403 Forbidden: cannot list resource "pods"'
LATER = builders.START + timedelta(hours=1)


def test_only_how_it_stands_changes():
    world = World().run()
    decision = unseen(builders.meta(generation=2), world.spec, world.status, WHY, LATER)
    assert decision.status is not None
    kept = {"observed_generation", "phase", "conditions"}
    assert decision.status.model_dump(exclude=kept) == world.status.model_dump(exclude=kept)
    assert (decision.status.observed_generation, decision.status.phase) == (2, "Stalled")
    told = {each.type: each for each in decision.status.conditions}
    before = {each.type: each for each in world.status.conditions}
    assert {name: each for name, each in told.items() if name not in {"Ready", "Stalled"}} == {
        name: each for name, each in before.items() if name != "Ready"
    }
    for name, status in (("Ready", "False"), ("Stalled", "True")):
        condition = told[name]
        assert (condition.status, condition.reason, condition.observed_generation) == (status, "Refused", 2)
        assert condition.last_transition_time == LATER
        assert condition.message == (
            f"Saffron is not shown what it has to read ({WHY}). Give the operator that right again, as the chart's "
            "ClusterRole and RoleBinding do; it tries again by itself."
        )
    assert [(event.type, event.reason) for event in decision.events] == [("Warning", "Refused")]
    assert (decision.actions, decision.requeue_after, decision.idle) == ((), None, True)


def test_it_is_told_once_and_taken_back_by_the_next_pass_that_sees():
    world = World().run()
    told = unseen(builders.meta(), world.spec, world.status, WHY, LATER)
    assert told.status is not None
    again = unseen(builders.meta(), world.spec, told.status, WHY, LATER + timedelta(minutes=1))
    assert (again.status, again.events) == (told.status, ())
    promoted, world.status = world.status, told.status
    world.step()
    assert world.ready == ("True", "Promoted")
    assert world.condition("Stalled") is None
    assert world.status.promoted == promoted.promoted


@pytest.mark.parametrize("spec", [builders.spec(), SpecError("spec.gates: what is that?")], ids=["a spec", "no spec"])
def test_a_status_that_is_new_or_lost_tells_it_too(spec: object):
    decision = unseen(builders.meta(), spec, None, WHY, LATER)
    assert decision.status is not None
    assert [(each.type, each.status) for each in decision.status.conditions] == [
        ("Ready", "False"),
        ("Stalled", "True"),
    ]


@pytest.mark.parametrize(
    ("meta", "spec"),
    [(builders.meta(deleting=True), builders.spec()), (builders.meta(), builders.spec(suspend=True))],
    ids=["it is being deleted", "it is suspended"],
)
def test_who_has_nothing_to_do_needs_nothing_to_read(meta: object, spec: object):
    decision = unseen(meta, spec, World().run().status, WHY, LATER)
    assert (decision.status, decision.actions, decision.events) == (None, (), ())
