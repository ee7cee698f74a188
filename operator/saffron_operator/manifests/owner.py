"""The reference that makes the cluster remove what we made when the QuantizedModel is deleted."""

from typing import Any

from saffron_api.quantized_model import GROUP, KIND, VERSION
from saffron_operator.observed import ResourceMeta


def owner_references(meta: ResourceMeta) -> list[dict[str, Any]]:
    """Return the owner references of an object that belongs to a QuantizedModel."""
    return [
        {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": KIND,
            "name": meta.name,
            "uid": meta.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]
