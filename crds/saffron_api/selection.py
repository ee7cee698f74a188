"""Which of the candidates that pass is taken: one rule, for the operator, `saffron run` and the page of reports."""

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

from saffron_api.results import FigureName
from saffron_api.spec import QuantizedModelSpec, Selection
from saffron_api.status import CandidateStatus, SelectedStatus, Verdict

NEAR = 1.01
"""Checkpoints within 1 % of the fewest bytes count as equally small."""


class Bounded(Protocol):
    """A figure, of which only the bound on its upper side counts here."""

    @property
    def name(self) -> FigureName:
        """What is measured."""

    @property
    def upper(self) -> float:
        """The one-sided upper confidence bound."""


class Judged(Protocol):
    """A candidate that the gates have looked at, wherever it is written down."""

    @property
    def verdict(self) -> Verdict | None:
        """What the gates say."""

    @property
    def checkpoint_digest(self) -> str | None:
        """Of its checkpoint, if there is one."""

    @property
    def bytes(self) -> int | None:
        """Of all its tensors."""

    @property
    def figures(self) -> Sequence[Bounded]:
        """What was measured of it."""


Candidates = TypeVar("Candidates", bound=Judged)


def choose(rule: Selection, candidates: Sequence[Candidates]) -> Candidates | None:
    """The candidate that a rule takes, or None where none passed.

    With the chance that was asked for, none of them passed wrongly (Bonferroni), so any rule may choose among them.
    """
    passed = [each for each in candidates if each.verdict is Verdict.PASS and each.checkpoint_digest is not None]
    if not passed:
        return None
    if rule is Selection.SMALLEST:
        fewest = min(_bytes(each) for each in passed)
        near = [each for each in passed if _bytes(each) <= fewest * NEAR]
        return min(near, key=_divergence)  # the first of equals: the author's order
    return min(passed, key=lambda each: (_divergence(each), _bytes(each)))


def select(spec: QuantizedModelSpec, candidates: Sequence[CandidateStatus]) -> SelectedStatus | None:
    """The candidate that a request takes, and where its checkpoint lies; None where none passed."""
    chosen = choose(spec.selection, candidates)
    if chosen is None:
        return None
    digest = chosen.checkpoint_digest or ""
    store = spec.storage.checkpoints
    uri = f"pvc://{store.claim_name}/{store.path}/{digest}"
    return SelectedStatus(name=chosen.name, checkpoint_digest=digest, uri=uri)


def _bytes(candidate: Judged) -> float:
    return math.inf if candidate.bytes is None else candidate.bytes


def _divergence(candidate: Judged) -> float:
    """The upper bound of the divergence: the quality that is certain."""
    return next((each.upper for each in candidate.figures if each.name is FigureName.KL_DIVERGENCE), math.inf)
