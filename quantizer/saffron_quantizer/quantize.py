"""The Quantize stage: a model folder and token sequences in, a checkpoint in compressed-tensors' format out.

The model is walked block by block. Each finished block is written as a shard of its own, so a killed run goes on with
the first block that has none. Every run goes on through weights dequantized from the *stored* codes and scales, so a
resumed run replays finished blocks to the same hidden states and ends with the same bytes.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saffron_api.candidate import NEEDS_CALIBRATION, CandidateSpec
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_api.keys import ARTEFACT_VERSION
from saffron_api.results import QuantizeResult
from saffron_quantizer.atomic import private_folder, write_file
from saffron_quantizer.checkpoint.formats import quantization_config
from saffron_quantizer.checkpoint.identity import FolderGuard, content_files, digest_of, file_hash
from saffron_quantizer.checkpoint.identity import model_digest as digest_folder
from saffron_quantizer.checkpoint.manifest import read_manifest, write_manifest
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.checkpoint.tensor_file import read_entry, read_header
from saffron_quantizer.checkpoint.writer import (
    companion_files,
    copy_companions,
    shard_name,
    write_index,
    write_json,
    write_tensors,
)
from saffron_quantizer.memory import peak_bytes
from saffron_quantizer.models.batches import BATCH_TOKENS
from saffron_quantizer.models.stream import ModelStream, Walk
from saffron_quantizer.partial import open_partial, publish
from saffron_quantizer.plan import Plan, folder_bytes, make_plan
from saffron_quantizer.progress import Progress
from saffron_quantizer.quantize_block import BlockNotes, calibrate_block, put_weights, round_block

_log = logging.getLogger(__name__)

_RESULT = "result.json"
_SPARE_BYTES = 1 << 20
"""Room for headers, config, index and manifest."""


def quantize(
    *,
    model: Path,
    sequences: Sequence[Tensor] | None,
    spec: CandidateSpec,
    store: Path | None,
    out: Path | None,
    work: Path | None,
    model_digest: str | None,
    data_digest: str | None,
    progress: Callable[[Progress], None],
) -> QuantizeResult:
    """Make a checkpoint, or finish the one that a killed run began, or report the one that is there.

    Args:
        model: folder of the original.
        sequences: 1-D int64 token ids to calibrate on; None for methods that read no data.
        spec: what to make.
        store: folder of all checkpoints; this one becomes the folder in it that its digest names.
        out: instead of `store`, the checkpoint's own folder: new, or our own unfinished one.
        work: folder that remembers the result, so that a second run only reports it.
        model_digest: of the model; computed when it is None.
        data_digest: of the sequences; computed when it is None.
        progress: is told of each finished block.

    Raises:
        StageError: for everything that a user can put right.
        ValueError: not exactly one of `store` and `out`, or no sequences for a method that needs them.
    """
    begun = time.monotonic()
    if work is not None:
        private_folder(work)
    if (store is None) == (out is None):
        raise ValueError("exactly one of store and out must be given")
    if spec.method in NEEDS_CALIBRATION and not sequences:
        raise ValueError(f"{spec.method} needs sequences to calibrate on")
    reported = _reported(store, work)
    if reported is not None:
        return reported
    reader = CheckpointReader(model)
    plan = make_plan(reader, spec)
    guard = FolderGuard(model)
    stream = ModelStream.open(model)
    calibration = list(sequences or []) if spec.method in NEEDS_CALIBRATION else []
    request = {
        "candidate": _explicit(spec).model_dump(mode="json", by_alias=True, exclude_none=True),
        "modelDigest": model_digest or digest_folder(model, hash_cache=None),
        "dataDigest": (data_digest or _digest_of_sequences(calibration)) if calibration else None,
    }
    fingerprint = {"request": request, "machine": _machine(stream)}
    target = _partial_folder(store, fingerprint) if out is None else out
    result = _finished(target, request)
    if result is None:
        _require_room(target, plan, model)
        open_partial(target, fingerprint, work=work)
        notes = _write_blocks(target, reader, plan, stream, calibration, progress=progress)
        files, sizes = _write_rest(target, reader, plan)
        guard.check()
        result = _result(digest_of(files), sizes, notes, seconds=time.monotonic() - begun)
        told = result.model_dump(mode="json", by_alias=True)
        layers = [{"block": index, **note.to_json()} for index, note in enumerate(notes)]
        extra = {"fingerprint": fingerprint, "result": told, "layers": layers}
        write_manifest(target, extra, mode=0o644)
    if work is not None:
        write_file(work / _RESULT, result.model_dump_json(by_alias=True).encode(), mode=0o600)
    publish(target, target if store is None else store / result.checkpoint_digest)
    return result


def _reported(store: Path | None, work: Path | None) -> QuantizeResult | None:
    """The result that an earlier run left, if its checkpoint stands."""
    if store is None or work is None or not (work / _RESULT).is_file():
        return None
    result = QuantizeResult.model_validate_json((work / _RESULT).read_bytes())
    return result if read_manifest(store / result.checkpoint_digest) is not None else None


def _finished(target: Path, request: Mapping[str, Any]) -> QuantizeResult | None:
    """The result in a folder's manifest: the run before ended after it was written.

    Raises:
        StageError: `SPEC_INVALID` if the checkpoint there is of another request.
    """
    manifest = read_manifest(target)
    if manifest is None:
        return None
    if manifest["fingerprint"]["request"] != request:
        _log.error("%s holds a checkpoint of other settings or inputs; choose another folder.", target)
        subject = subject_of(f"--out={target}")
        raise StageError(Failure(reason=FailureReason.SPEC_INVALID, subject=subject))
    return QuantizeResult.model_validate(manifest["result"])


def _explicit(spec: CandidateSpec) -> CandidateSpec:
    """The same candidate with its default group size written out, so that both spellings are one request."""
    return spec.model_copy(update={"group_size": spec.effective_group_size})


def _partial_folder(store: Path | None, fingerprint: Mapping[str, Any]) -> Path:
    text = json.dumps(fingerprint, sort_keys=True)
    return Path(store or "") / f".partial-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _digest_of_sequences(sequences: Sequence[Tensor]) -> str:
    lines = [json.dumps(sequence.tolist()) for sequence in sequences]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _machine(stream: ModelStream) -> dict[str, Any]:
    """What of software and machine fixes the bytes."""
    return {
        "artefactVersion": ARTEFACT_VERSION,
        "versions": {name: version(name) for name in ("saffron-quantizer", "torch", "transformers", "numba")},
        "isa": torch.backends.cpu.get_cpu_capability(),
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(stream.dtype),
        "batchTokens": BATCH_TOKENS,
    }


def _require_room(target: Path, plan: Plan, model: Path) -> None:
    """Refuse before any work what the volume can't hold.

    Raises:
        StageError: `STORAGE_FULL` with the bytes that are free and needed.
    """
    companions = sum(path.stat().st_size for path in companion_files(model))
    need = plan.bytes + companions + _SPARE_BYTES - folder_bytes(target)
    volume = next(place for place in (target.absolute(), *target.absolute().parents) if place.exists())
    have = shutil.disk_usage(volume).free
    if have < need:
        subject = subject_of(target.parent)
        raise StageError(Failure(reason=FailureReason.STORAGE_FULL, subject=subject, have=have, need=need))


def _write_blocks(
    folder: Path,
    reader: CheckpointReader,
    plan: Plan,
    stream: ModelStream,
    sequences: Sequence[Tensor],
    *,
    progress: Callable[[Progress], None],
) -> list[BlockNotes]:
    """Write every shard that is not there yet: first what lies outside the blocks, then block by block."""
    count = len(plan.blocks)
    outer = folder / shard_name(1, count + 1)
    if not outer.is_file():
        write_tensors(outer, {name: reader.read(name) for name in plan.outside})
    walk = stream.walk(sequences) if sequences else None
    notes = []
    for index in range(count):
        shard = folder / shard_name(index + 2, count + 1)
        notes.append(_block(shard, reader, plan, index, walk))
        progress(Progress("quantizing blocks", index + 1, count))
    return notes


def _block(shard: Path, reader: CheckpointReader, plan: Plan, index: int, walk: Walk | None) -> BlockNotes:
    """Write one block's shard unless it is there, and take the walk past it."""
    if walk is None:
        return _notes(shard) or _save(shard, *round_block(reader, plan, index))
    with walk.stream.loaded(index) as block:
        notes = _notes(shard)
        if notes is None:
            notes = _save(shard, *calibrate_block(reader, plan, index, walk))
        else:
            entries = read_header(shard)
            stored = {name: read_entry(entry) for name, entry in entries.items()}
            put_weights(block, plan, index, plan.architecture.linears, stored)
            walk.advance(index)
    return notes


def _save(shard: Path, stored: Mapping[str, Tensor], notes: BlockNotes) -> BlockNotes:
    """Write a block's notes and then its shard, whose presence says that both are there."""
    write_file(_notes_file(shard), json.dumps(notes.to_json()).encode())
    write_tensors(shard, stored)
    return notes


def _notes(shard: Path) -> BlockNotes | None:
    """The notes of a finished block, or None if it is not finished."""
    return BlockNotes(**json.loads(_notes_file(shard).read_bytes())) if shard.is_file() else None


def _notes_file(shard: Path) -> Path:
    return shard.with_name(f".{shard.stem}.json")


def _write_rest(folder: Path, reader: CheckpointReader, plan: Plan) -> tuple[dict[str, tuple[int, str]], list[int]]:
    """Write what goes with the shards: companions, index and config.json.

    Returns:
        For each file of the checkpoint its size and SHA-256; the bytes of each tensor.
    """
    shards = {path.name: read_header(path) for path in sorted(folder.glob("model-*.safetensors"))}
    sizes = {shard: {name: entry.bytes for name, entry in entries.items()} for shard, entries in shards.items()}
    copy_companions(reader.folder, folder)
    write_index(folder, sizes)
    config = {**reader.config, "quantization_config": quantization_config(plan.spec, plan.architecture.head)}
    write_json(folder / "config.json", config)
    files = {name: ((folder / name).stat().st_size, file_hash(folder / name)) for name in content_files(folder)}
    return files, [size for entries in sizes.values() for size in entries.values()]


def _result(digest: str, sizes: Sequence[int], notes: Sequence[BlockNotes], *, seconds: float) -> QuantizeResult:
    return QuantizeResult(
        checkpoint_digest=digest,
        bytes=sum(sizes),
        modules=sum(note.modules for note in notes),
        max_damping=max(note.max_damping for note in notes),
        dead_columns=sum(note.dead_columns for note in notes),
        seconds=round(seconds, 3),
        peak_bytes=peak_bytes(),
    )
