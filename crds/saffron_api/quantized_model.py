"""The kind QuantizedModel: its names in the API, its root type, and all types of its spec and status in one place."""

import re
from typing import Literal

from pydantic import ConfigDict

from saffron_api.model import ApiModel, Rule
from saffron_api.pod_template import PodTemplate, Resources, Toleration
from saffron_api.scalars import CandidateName, ClaimUri
from saffron_api.spec import (
    Approval,
    Calibration,
    Candidate,
    CheckpointStorage,
    Data,
    Dataset,
    DataSource,
    Evaluation,
    Gates,
    JobSettings,
    JobStages,
    LowerLimit,
    ModelSource,
    QuantizedModelSpec,
    RedactKind,
    Rollout,
    RolloutStep,
    Selection,
    Storage,
    TargetRef,
    UpperLimit,
    WorkspaceStorage,
)
from saffron_api.status import (
    CandidateState,
    CandidateStatus,
    Condition,
    FigureStatus,
    PromotedStatus,
    QuantizedModelStatus,
    RejectedStatus,
    RolloutStatus,
    RunStatus,
    SamplesStatus,
    SelectedStatus,
    Verdict,
)

GROUP = "saffron.dev"
VERSION = "v1alpha1"
KIND = "QuantizedModel"
PLURAL = "quantizedmodels"

__all__ = [
    "GROUP",
    "KIND",
    "PLURAL",
    "VERSION",
    "Approval",
    "Calibration",
    "Candidate",
    "CandidateName",
    "CandidateState",
    "CandidateStatus",
    "CheckpointStorage",
    "ClaimUri",
    "Condition",
    "Data",
    "DataSource",
    "Dataset",
    "Evaluation",
    "FigureStatus",
    "Gates",
    "JobSettings",
    "JobStages",
    "LowerLimit",
    "Metadata",
    "ModelSource",
    "PodTemplate",
    "PromotedStatus",
    "QuantizedModel",
    "QuantizedModelSpec",
    "QuantizedModelStatus",
    "RedactKind",
    "RejectedStatus",
    "Resources",
    "Rollout",
    "RolloutStatus",
    "RolloutStep",
    "RunStatus",
    "SamplesStatus",
    "SelectedStatus",
    "Selection",
    "Storage",
    "TargetRef",
    "Toleration",
    "UpperLimit",
    "Verdict",
    "WorkspaceStorage",
]

_NAME = r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?"


class Metadata(ApiModel):
    """What we look at of an object's metadata; the rest of it is Kubernetes' own and let through."""

    model_config = ConfigDict(extra="ignore")

    name: str
    namespace: str | None = None


class QuantizedModel(ApiModel):
    """One served language model, the smaller ones to try in its place, and what they must keep."""

    rules = (
        Rule(
            field="metadata.name",
            cel=f"self.metadata.name.matches(r'^{_NAME}$')",
            message="must be at most 30 lower-case letters, digits and '-', with a letter or digit at both ends: Jobs "
            "are named after it",
            holds=lambda model: re.fullmatch(_NAME, model.metadata.name) is not None,
        ),
        Rule(
            field="spec.rollout.targetRef",
            cel="!has(oldSelf.status) || !has(oldSelf.status.run) || !has(oldSelf.spec.rollout) || "
            "(has(self.spec.rollout) && self.spec.rollout.targetRef == oldSelf.spec.rollout.targetRef)",
            message="is fixed once a run exists; make another QuantizedModel for another target",
            holds=None,
        ),
        Rule(
            field="spec.storage",
            cel="!has(oldSelf.status) || !has(oldSelf.status.run) || self.spec.storage == oldSelf.spec.storage",
            message="is fixed once a run exists, for pods may mount a checkpoint from there; make another "
            "QuantizedModel for other claims",
            holds=None,
        ),
    )

    api_version: Literal["saffron.dev/v1alpha1"]
    kind: Literal["QuantizedModel"]
    metadata: Metadata
    spec: QuantizedModelSpec
    status: QuantizedModelStatus = QuantizedModelStatus()
