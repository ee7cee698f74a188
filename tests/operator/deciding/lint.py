"""What every status must keep, whatever the state: the rules that kstatus reads conditions by."""

from saffron_api.failures import FailureReason
from saffron_operator import reasons
from saffron_operator.decision import Decision

KNOWN = frozenset(value for name, value in vars(reasons).items() if name.isupper()) | set(FailureReason)


def lint(decision: Decision, generation: int) -> None:
    """Raise AssertionError where a status breaks a rule."""
    status = decision.status
    if status is None:
        assert decision.actions == (), "what is being deleted is left alone"
        return
    conditions = {each.type: each for each in status.conditions}
    assert len(conditions) == len(status.conditions), "a condition's type is unique"
    assert "Ready" in conditions, "Ready is always there"
    assert status.observed_generation == generation, "the status speaks of this generation"
    assert {each.observed_generation for each in status.conditions} == {generation}, "and so does each condition"
    for kind in ("Reconciling", "Stalled"):
        assert kind not in conditions or conditions[kind].status == "True", f"{kind} is there only while True"
    assert not {"Reconciling", "Stalled"} <= conditions.keys(), "it works or is stalled, not both"
    ready = conditions["Ready"].status
    if status.phase != "Suspended":
        assert ready in {"True", "False"}, "Ready is known"
        assert ready == "False" or not {"Reconciling", "Stalled"} & conditions.keys(), "Ready ends both"
    for condition in status.conditions:
        assert condition.message.strip(), f"{condition.type} says something"
        assert condition.reason in KNOWN, f"{condition.reason} has a sentence"
    if "Stalled" in conditions:
        assert len(conditions["Stalled"].message) > 40, "what is stalled says what to do"
    names = {(type(action), action.name) for action in decision.actions}
    assert len(names) == len(decision.actions), "nothing is done twice in a pass"
    assert decision.requeue_after is None or decision.requeue_after >= 0
