"""Which architecture a model folder is of: a row of our table, or one that its transformers class shows."""

from pathlib import Path
from typing import Any, Protocol

from saffron_quantizer.checkpoint.tensor_file import malformed
from saffron_quantizer.models.architectures import Architecture, find_architecture
from saffron_quantizer.models.inferred import infer_architecture


class Configured(Protocol):
    """Something that has a model folder's config.json."""

    folder: Path
    config: dict[str, Any]


def architecture_of(source: Configured) -> Architecture:
    """The architecture of a model folder.

    Raises:
        StageError: `ARCHITECTURE_UNSUPPORTED`, with what is missing where no row fits and none can be inferred;
            `MODEL_MALFORMED` where config.json has no list of architectures.
    """
    names = source.config.get("architectures") or ["(none)"]
    if not isinstance(names, list):
        raise malformed("config.json(architectures)")
    name = str(names[0])
    model_type = str(source.config.get("model_type"))
    return find_architecture(name, model_type) or infer_architecture(source.folder, name, model_type)
