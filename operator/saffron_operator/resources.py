"""The kinds of objects that the operator reads or writes, and where the API server keeps them."""

from dataclasses import dataclass

from saffron_api import quantized_model


@dataclass(frozen=True)
class Resource:
    """One kind of namespaced object."""

    group: str
    version: str
    plural: str

    @property
    def api_version(self) -> str:
        """As it stands in a manifest: `apps/v1`, or `v1` in the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str, name: str | None = None, subresource: str | None = None) -> str:
        """Return the path of a collection, of an object in it or of that object's subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, "namespaces", namespace, self.plural, name, subresource]
        return "/".join(part for part in parts if part is not None)


QUANTIZED_MODELS = Resource(quantized_model.GROUP, quantized_model.VERSION, quantized_model.PLURAL)
JOBS = Resource("batch", "v1", "jobs")
DEPLOYMENTS = Resource("apps", "v1", "deployments")
PODS = Resource("", "v1", "pods")
EVENTS = Resource("events.k8s.io", "v1", "events")
LEASES = Resource("coordination.k8s.io", "v1", "leases")
AUTOSCALERS = Resource("autoscaling", "v2", "horizontalpodautoscalers")
SCALED_OBJECTS = Resource("keda.sh", "v1alpha1", "scaledobjects")
