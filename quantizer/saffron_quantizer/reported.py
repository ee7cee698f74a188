"""What a finished Quantize stage leaves in its folder of work, so that a second run only reports it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saffron_api.results import QuantizeResult
from saffron_quantizer.atomic import PRIVATE_FILE, write_file
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.destination import Destination, Store

_RESULT = "result.json"


def remember(work: Path, result: QuantizeResult) -> None:
    """Leave a result."""
    write_file(work / _RESULT, result.model_dump_json(by_alias=True).encode(), mode=PRIVATE_FILE)


def reported(
    destination: Destination, work: Path | None, request: Callable[[], Mapping[str, Any]]
) -> QuantizeResult | None:
    """The result that an earlier run left, if its checkpoint stands in the store and was made for the same request.

    Args:
        destination: where the checkpoint goes.
        work: the folder of work, if there is one.
        request: tells what is asked for, as `QuantizeRequest.told`; called only where there is something to compare.
    """
    if not isinstance(destination, Store) or work is None or not (work / _RESULT).is_file():
        return None
    result = QuantizeResult.model_validate_json((work / _RESULT).read_bytes())
    manifest = read_manifest(destination.finished(result.checkpoint_digest))
    return result if manifest is not None and request_of(manifest) == request() else None


def request_of(manifest: Mapping[str, Any]) -> Any:  # noqa: ANN401 parsed JSON
    """What a checkpoint was made for, by its manifest; None if that is not one of a checkpoint."""
    return manifest.get("fingerprint", {}).get("request")
