"""What a Job's pod takes over from the author of a QuantizedModel: where it runs and what it may use.

Only what chooses a node and a budget: an image, a command, a volume, a user or a service account in a spec would give
its author rights of the operator's.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from saffron_api.model import ApiModel, Rule
from saffron_api.scalars import DnsSubdomain, Quantity, matches

_QUALIFIED = r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?"

_NAME_LENGTH = 253
_NAMES_ARE_SHORT = Rule(
    cel=f"self.all(name, size(name) >= 1 && size(name) <= {_NAME_LENGTH})",
    message=f"each name must have 1 to {_NAME_LENGTH} characters",
    holds=lambda entries: all(1 <= len(name) <= _NAME_LENGTH for name in entries),
)
LabelValue = Annotated[
    str,
    StringConstraints(max_length=63),
    matches(_VALUE, "must be letters, digits, '-', '_' and '.', with a letter or digit at both ends, or empty"),
]
LabelKey = Annotated[
    str,
    StringConstraints(max_length=317),
    matches(_QUALIFIED, "must be a name such as disk or example.com/disk"),
]
Quantities = Annotated[dict[str, Quantity], Field(max_length=16), _NAMES_ARE_SHORT]


class Resources(ApiModel):
    """What the container asks for and may use at most."""

    requests: Quantities | None = Field(default=None, description="Amounts by name, as cpu, memory or nvidia.com/gpu.")
    limits: Quantities | None = Field(
        default=None,
        description="Amounts by name, as cpu, memory or nvidia.com/gpu, on which stages that run the model compute.",
    )


class TolerationOperator(StrEnum):
    """How a taint's value is compared."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(ApiModel):
    """A taint that the pod accepts, as in a pod's own tolerations."""

    rules = (
        Rule(
            field="value",
            cel="!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
            message="leave value out with operator Exists, which accepts every value",
            holds=lambda toleration: toleration.operator is not TolerationOperator.EXISTS or not toleration.value,
        ),
        Rule(
            field="operator",
            cel="has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            message="must be Exists where there is no key",
            holds=lambda toleration: toleration.key is not None or toleration.operator is TolerationOperator.EXISTS,
        ),
        Rule(
            field="tolerationSeconds",
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="goes with effect NoExecute only",
            holds=lambda toleration: (
                toleration.toleration_seconds is None or toleration.effect is TaintEffect.NO_EXECUTE
            ),
        ),
    )

    key: LabelKey | None = Field(default=None, description="The taint's key; every key where it is left out.")
    operator: TolerationOperator | None = Field(default=None, description="Exists, or Equal where it is left out.")
    value: LabelValue | None = Field(default=None, description="The taint's value, with Equal.")
    effect: TaintEffect | None = Field(default=None, description="The taint's effect; every effect where left out.")
    toleration_seconds: Annotated[int, Field(strict=True, ge=0, le=31_536_000)] | None = Field(
        default=None, description="How long a NoExecute taint is tolerated; for ever where it is left out."
    )


class PodTemplate(ApiModel):
    """What a Job's pod takes over from its author."""

    resources: Resources | None = Field(default=None, description="Requests and limits of the container.")
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16), _NAMES_ARE_SHORT] | None = Field(
        default=None, description="Labels that the node must have."
    )
    tolerations: Annotated[list[Toleration], Field(max_length=16)] | None = Field(
        default=None, description="Taints that the pod accepts."
    )
    runtime_class_name: DnsSubdomain | None = Field(default=None, description="The RuntimeClass, as for GPUs.")
    priority_class_name: DnsSubdomain | None = Field(default=None, description="The PriorityClass of the pod.")
