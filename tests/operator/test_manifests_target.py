"""What serves a checkpoint: the canary beside the target, and the overlay on it."""

from deciding import builders
from deciding.world import World
from deciding.worlds import GPTQ

from saffron_operator.decision import ApplyCanary, ApplyOverlay, RemoveOverlay


def test_the_canary_is_the_target_with_the_checkpoint_and_a_label_more():
    world = World().run()
    canary = next(act for act in world.acts if isinstance(act, ApplyCanary))
    again = [act for act in world.acts if isinstance(act, ApplyCanary)][1]
    template = builders.deployment()["spec"]["template"]
    labels = {
        "app.kubernetes.io/managed-by": "saffron",
        "saffron.dev/quantizedmodel": "qwen",
        "saffron.dev/canary-of": "qwen",
    }
    container = template["spec"]["containers"][0]
    expected_template = {
        "metadata": {
            "labels": {"app": "qwen", "saffron.dev/canary-of": "qwen"},
            "annotations": {"saffron.dev/checkpoint": f"{world.run_id}/gptq-int4/{GPTQ}"},
        },
        "spec": {
            "containers": [
                container
                | {
                    "volumeMounts": [
                        *container["volumeMounts"],
                        {
                            "name": "saffron-checkpoint",
                            "mountPath": "/models/qwen",
                            "subPath": f"saffron/{GPTQ}",
                            "readOnly": True,
                        },
                    ]
                }
            ],
            "volumes": [
                *template["spec"]["volumes"],
                {
                    "name": "saffron-checkpoint",
                    "persistentVolumeClaim": {"claimName": "checkpoints", "readOnly": True},
                },
            ],
        },
    }
    assert (canary.exists, canary.manifest["metadata"]["name"]) == (False, "qwen-saffron")
    assert canary.manifest["metadata"]["labels"] == labels
    assert "uid" not in canary.manifest["metadata"]
    assert canary.manifest["spec"] == {
        "replicas": 1,
        "progressDeadlineSeconds": 600,
        "revisionHistoryLimit": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": {"saffron.dev/canary-of": "qwen"}},
        "template": expected_template,
    }
    assert (again.exists, again.manifest["spec"]["replicas"]) == (True, 2)
    assert again.manifest["metadata"]["uid"]


def test_the_overlay_is_a_volume_a_mount_and_an_annotation_and_nothing_else():
    world = World().run()
    overlay = next(act for act in world.acts if isinstance(act, ApplyOverlay))
    mount = {
        "name": "saffron-checkpoint",
        "mountPath": "/models/qwen",
        "subPath": f"saffron/{GPTQ}",
        "readOnly": True,
    }
    claim = {"claimName": "checkpoints", "readOnly": True}
    assert overlay.field_manager == f"saffron.dev-{builders.UID}"
    assert overlay.manifest == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "qwen", "namespace": "serving", "uid": builders.TARGET_UID, "resourceVersion": "1"},
        "spec": {
            "template": {
                "metadata": {"annotations": {"saffron.dev/checkpoint": f"{world.run_id}/gptq-int4/{GPTQ}"}},
                "spec": {
                    "volumes": [{"name": "saffron-checkpoint", "persistentVolumeClaim": claim}],
                    "containers": [{"name": "server", "volumeMounts": [mount]}],
                },
            }
        },
    }


def test_undoing_applies_nothing_as_the_same_manager():
    world = World(target_gets_ready=False).run()
    removal = next(act for act in world.acts if isinstance(act, RemoveOverlay))
    assert removal.field_manager == f"saffron.dev-{builders.UID}"
    assert set(removal.manifest) == {"apiVersion", "kind", "metadata"}
    assert set(removal.manifest["metadata"]) == {"name", "namespace", "uid", "resourceVersion"}


def test_a_second_promotion_is_built_from_the_original_template():
    world = World().run()
    seen = len(world.acts)
    world.change(selection="BestQuality")
    world.divergences = {"int8": 0.01}
    world.jobs = {name: each for name, each in world.jobs.items() if each.candidate != "int8"}
    world.run()
    canary = next(act for act in world.acts[seen:] if isinstance(act, ApplyCanary))
    volumes = canary.manifest["spec"]["template"]["spec"]["volumes"]
    assert [each["name"] for each in volumes] == ["models", "saffron-checkpoint"]
    assert world.status.rollout is not None
    assert world.status.rollout.previous_digest == GPTQ
