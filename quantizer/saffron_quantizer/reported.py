"""What a finished Quantize stage leaves in its folder of work, so that a second run only reports it."""

from pathlib import Path

from saffron_api.results import QuantizeResult
from saffron_quantizer.atomic import PRIVATE_FILE, write_file
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.destination import Destination, Store

_RESULT = "result.json"


def remember(work: Path, result: QuantizeResult) -> None:
    """Leave a result."""
    write_file(work / _RESULT, result.model_dump_json(by_alias=True).encode(), mode=PRIVATE_FILE)


def reported(destination: Destination, work: Path | None) -> QuantizeResult | None:
    """The result that an earlier run left, if its checkpoint stands in the store."""
    if not isinstance(destination, Store) or work is None or not (work / _RESULT).is_file():
        return None
    result = QuantizeResult.model_validate_json((work / _RESULT).read_bytes())
    return result if read_manifest(destination.finished(result.checkpoint_digest)) is not None else None
