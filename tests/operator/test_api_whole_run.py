"""One whole run, from apply to promoted, by the operator's own process under the chart's rights."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import pytest
from apilevel import operators, setup
from apilevel.kubelet import checkpoint_digest

from saffron_dev.controlplane import ControlPlane
from saffron_operator import names
from saffron_operator.client import Cluster, Object
from saffron_operator.resources import DEPLOYMENTS, EVENTS, JOBS, LEASES, PODS, QUANTIZED_MODELS

MEGABYTES_IDLE = 150
EVENT_REASONS = [
    *("RunStarted", "Inspecting", "Sampling", "Quantizing"),
    *("CanaryStarting", "StepStarted", "CanaryPaused", "Promoting", "RemovingCanary", "Promoted"),
]


async def objects(admin: Cluster, namespace: str) -> list[Object]:
    resources = (QUANTIZED_MODELS, JOBS, DEPLOYMENTS, PODS)
    return [each for resource in resources for each in await admin.list_all(resource, namespace)]


@pytest.mark.usefixtures("kubelet")
async def test_from_apply_to_promoted(installed: ControlPlane, served: str, admin: Cluster) -> None:
    async with operators.process(installed, served) as operator:
        await operator.logged("leading")
        key = await setup.begin(admin, served)
        status = await operators.until_promoted(admin, key)

        # What the author sees.
        assert {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]} == {
            "Ready": ("True", "Promoted"),
            "Sampled": ("True", "Done"),
            "Quantized": ("True", "Done"),
            "GatesPassed": ("True", "Done"),
            "Promoted": ("True", "Done"),
            "QualityHealthy": ("Unknown", "NotWatched"),
            "TargetDrift": ("False", "NoDrift"),
        }
        assert status["phase"] == "Promoted"
        assert [(each["name"], each["verdict"]) for each in status["candidates"]] == [
            ("good-int4", "Pass"),
            ("bad-int4", "Fail"),
        ]
        digest = checkpoint_digest("good-int4")
        assert status["selected"] == {
            "name": "good-int4",
            "checkpointDigest": digest,
            "uri": f"pvc://checkpoints/saffron/{digest}",
        }
        await _the_target_serves_it(admin, served, status)

        # What stands in the cluster.
        jobs = await admin.list_all(JOBS, served)
        assert sorted(re.sub("-[0-9a-f]{8}$", "", each["metadata"]["name"]) for each in jobs) == [
            "model-baseline",
            "model-evaluate-bad-int4",
            "model-evaluate-good-int4",
            "model-inspect",
            "model-quantize-bad-int4",
            "model-quantize-good-int4",
            "model-sample",
        ]
        for each in await objects(admin, served):
            finalizers = each["metadata"].get("finalizers", ())
            assert not [name for name in finalizers if "kopf" in name or "saffron" in name]
            assert not [name for name in each["metadata"].get("annotations", {}) if "kopf" in name]
        (resource,) = await admin.list_all(QUANTIZED_MODELS, served)
        assert "finalizers" not in resource["metadata"]
        assert "annotations" not in resource["metadata"]

        # Nothing is left to do: every pass that an event still calls for writes nothing.
        await asyncio.sleep(3)  # Kubernetes' own controllers have their last word about the pods that ended
        before = {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in await objects(admin, served)}
        touched = {"metadata": {"labels": {"touched": "yes"}}}
        await setup.edit(admin, JOBS, served, jobs[0]["metadata"]["name"], touched)
        await asyncio.sleep(3)
        after = {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in await objects(admin, served)}
        assert {uid for uid in after if before.get(uid) != after[uid]} == {jobs[0]["metadata"]["uid"]}

        await _it_told(admin, served)
        await _it_is_observable(operator)
        megabytes = operator.resident_megabytes()
        print(f"the operator's resident memory is {megabytes:.0f} MB")  # noqa: T201 - for -s
        assert megabytes <= MEGABYTES_IDLE

        # It ends promptly and lets the next one begin.
        code, seconds = await operator.end()
        assert (code, seconds < 5) == (0, True)
        lease = await admin.get(LEASES, setup.SYSTEM, setup.OPERATOR)
        assert lease is not None
        assert lease["spec"].get("holderIdentity", "") == ""
        assert not [line for line in operator.log if "level=error" in line or "Traceback" in line]


async def _the_target_serves_it(admin: Cluster, namespace: str, status: Mapping[str, Any]) -> None:
    digest = status["selected"]["checkpointDigest"]
    target = await admin.get(DEPLOYMENTS, namespace, "server")
    assert target is not None
    written = setup.server(namespace)["spec"]["template"]["spec"]
    template = target["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert container["volumeMounts"] == [
        *written["containers"][0]["volumeMounts"],
        {
            "name": "saffron-checkpoint",
            "mountPath": "/models/original",
            "subPath": f"saffron/{digest}",
            "readOnly": True,
        },
    ]
    assert {key: container[key] for key in ("args", "command", "image")} == {
        key: written["containers"][0][key] for key in ("args", "command", "image")
    }
    assert template["metadata"]["annotations"] == {
        names.CHECKPOINT_ANNOTATION: f"{status['run']['id']}/good-int4/{digest}"
    }
    assert target["spec"]["replicas"] == 2
    assert [each["metadata"]["name"] for each in await admin.list_all(DEPLOYMENTS, namespace)] == ["server"]


async def _it_told(admin: Cluster, namespace: str) -> None:
    events = await admin.list_all(EVENTS, namespace)
    ours = [each for each in events if each.get("reportingController") == "saffron.dev/operator"]
    ours.sort(key=lambda each: str(each["eventTime"]))
    assert [each["reason"] for each in ours] == EVENT_REASONS
    assert {each["regarding"]["kind"] for each in ours} == {"QuantizedModel"}


async def _it_is_observable(operator: operators.Process) -> None:
    assert await operator.get("health", "/healthz") == (200, "ok\n")
    assert await operator.get("health", "/readyz") == (200, "ok\n")
    code, metrics = await operator.get("metrics", "/metrics")
    assert code == 200
    assert "\nsaffron_leader 1.0\n" in metrics
    assert 'candidate="bad-int4",gate="perplexityRatio"' in metrics
    assert 'saffron_rollout_weight_percent{kind="actual"' in metrics
    assert 'saffron_stage_duration_seconds{candidate="good-int4"' in metrics
    assert len(re.findall(r"^saffron_watch_age_seconds", metrics, re.MULTILINE)) == 4
