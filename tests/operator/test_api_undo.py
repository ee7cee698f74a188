"""What docs/rollout.md says under "Undo by hand", done to a real Deployment."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from apilevel import operators, setup

from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster
from saffron_operator.reconcile import Reconciler
from saffron_operator.resources import DEPLOYMENTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rollout.md"


def documented_patch() -> str:
    """The patch that the page shows, with the path of the model that the tests serve."""
    section = PAGE.read_text().partition("## Undo by hand")[2]
    return section.partition("```yaml\n")[2].partition("```")[0].replace("/models/gemma-3-270m", "/models/original")


def has(reason: str) -> Callable[[Mapping[str, Any]], bool]:
    """Whether this is the reason of Ready."""
    return lambda status: setup.ready(status)[1] == reason


@pytest.mark.usefixtures("kubelet")
async def test_the_documented_patch_leaves_nothing_of_ours_and_saffron_leaves_it_at_that(
    installed: ControlPlane, served: str, admin: Cluster, operator: Reconciler
) -> None:
    key = await setup.begin(admin, served)
    before = await admin.get(DEPLOYMENTS, served, "server")
    await operators.drive(operator, key, has("Promoted"), admin=admin)
    patch = ("--namespace", served, "patch", "deployment", "server", "--patch", documented_patch())
    setup.kubectl(installed, *patch)
    await operators.drive(operator, key, has("TargetDrift"), admin=admin)
    after = await admin.get(DEPLOYMENTS, served, "server")
    assert before is not None
    assert after is not None
    assert after["spec"]["template"] == before["spec"]["template"]
