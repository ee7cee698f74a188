"""The Quantize stage: a model folder and token sequences in, a checkpoint out.

The model is walked block by block. Each finished block is written as a shard of its own, so a killed run goes on with
the first block that has none. Every run goes on through weights dequantized from the *stored* codes and scales, so a
resumed run replays finished blocks to the same hidden states and ends with the same bytes.

Several processes may do it together: each runs its share of the sequences, sums are added up over all, and the first
writes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_api.keys import ARTEFACT_VERSION, digest
from saffron_api.results import QuantizeResult
from saffron_quantizer.atomic import private_folder
from saffron_quantizer.checkpoint.identity import FolderGuard, content_files, digest_of, file_hash
from saffron_quantizer.checkpoint.manifest import read_manifest, write_manifest
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.checkpoint.tensor_file import read_header
from saffron_quantizer.checkpoint.writer import copy_companions, write_index, write_json
from saffron_quantizer.destination import Destination, Store
from saffron_quantizer.escalate import Make, Selection, escalate, with_rounds
from saffron_quantizer.exclusive import exclusive
from saffron_quantizer.memory import peak_bytes, reuse_memory
from saffron_quantizer.models.activations import ActivationMemory
from saffron_quantizer.models.batches import BATCH_TOKENS, LENGTH_STEP
from saffron_quantizer.models.compute import CPU, name_of
from saffron_quantizer.models.lean_import import without_compiler
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.partial import is_published, open_partial, publish
from saffron_quantizer.plan import Plan, make_plan
from saffron_quantizer.preflight import activation_budget, needs, require_room
from saffron_quantizer.progress import ProgressSink
from saffron_quantizer.quantize_block import BlockNotes
from saffron_quantizer.quantize_request import QuantizeRequest
from saffron_quantizer.ranks import ALONE, Ranks
from saffron_quantizer.reported import remember, reported, request_of
from saffron_quantizer.shards import read_notes, write_shards
from saffron_quantizer.tensor_parallel import tensor_parallel


@without_compiler()
def quantize(
    request: QuantizeRequest,
    destination: Destination,
    progress: ProgressSink,
    *,
    work: Path | None = None,
    activation_memory: int | None = None,
    ranks: Ranks = ALONE,
    device: torch.device = CPU,
) -> QuantizeResult:
    """Make a checkpoint, or finish the one that a killed run began, or report the one that is there.

    Args:
        request: what to make, of what.
        destination: where it goes.
        progress: is told of each finished block.
        work: folder that remembers the result, so that a second run only reports it.
        activation_memory: bytes of activations that are kept in memory, those beyond it in a file; by default half of
            what is free. It changes the time and no bit of the result.
        ranks: the processes that work together. All of them see the same folders, and the first one writes.
        device: what computes. The checkpoint has other bits on another device.

    Raises:
        StageError: for everything that a user can put right.
    """
    begun = time.monotonic()
    _require_one_process(request, ranks)
    _require_outside(request.model, destination)
    if work is not None and ranks.is_first:
        private_folder(work)
    finished = _of_first(ranks, lambda: reported(destination, work, request.told))
    if finished is not None:
        if ranks.is_first:
            # The run that made it may have been killed with its last step to do.
            place = destination.finished(finished.checkpoint_digest)
            publish(place, place)
        return finished
    run = _Run.of(request, ranks, begun, device)
    fingerprint = {"request": request.told(), "machine": _machine(run.stream, ranks)}
    ranks.require_same("inputs-or-machines", lambda: bytes.fromhex(digest(fingerprint)))
    folder = destination.unfinished(fingerprint)
    with _for_itself(folder, ranks):
        # Looked for once more: a run that had the folder may have ended since.
        result = _of_first(ranks, lambda: reported(destination, work, request.told) or _finished(folder, fingerprint))
        if result is None:
            reuse_memory()
            memory = _open(run, folder, fingerprint, work, activation_memory)
            result = _make(run, folder, fingerprint, memory, progress)
        if ranks.is_first:
            if work is not None:
                remember(work, result)
            publish(folder, destination.finished(result.checkpoint_digest))
    return result


def _for_itself(folder: Path, ranks: Ranks) -> AbstractContextManager[None]:
    """The folder for the rank that writes; one that is finished may lie where nothing can be written."""
    return exclusive(folder) if ranks.is_first and not is_published(folder) else nullcontext()


@dataclass(frozen=True)
class _Run:
    """What one checkpoint is made of.

    Attributes:
        begun: when, by the monotonic clock.
        reader: of the original's tensors.
        plan: what becomes of each.
        guard: tells whether the original changed meanwhile.
        stream: the original, to be walked.
        calibration: token ids; none for a candidate that reads no data.
        selection: for a candidate that is escalated.
        ranks: the processes that work together.
    """

    begun: float
    reader: CheckpointReader
    plan: Plan
    guard: FolderGuard
    stream: ModelStream
    calibration: Sequence[Tensor]
    selection: Selection | None
    ranks: Ranks

    @classmethod
    def of(cls, request: QuantizeRequest, ranks: Ranks, begun: float, device: torch.device) -> "_Run":
        reader = CheckpointReader(request.model)
        return cls(
            begun=begun,
            reader=reader,
            plan=make_plan(reader, request.spec),
            guard=FolderGuard(request.model),
            stream=ModelStream.open(request.model, device=device),
            calibration=request.calibration,
            selection=request.selection,
            ranks=ranks,
        )


def _open(
    run: _Run, target: Path, fingerprint: Mapping[str, Any], work: Path | None, activation_memory: int | None
) -> ActivationMemory:
    """Refuse what has no room, before any work; make the folder, or take over the unfinished one.

    Raises:
        StageError: `MEMORY_TOO_SMALL`, `STORAGE_FULL`, or as for `open_partial`.
    """
    need = needs(run.reader, run.plan, run.ranks.share(run.calibration), run.stream.dtype, run.stream.kept)
    need = with_rounds(need, target, run.reader, run.plan, run.selection)
    budget = activation_budget(need, activation_memory)
    # Activations are made of what people wrote, so they go where that is, if there is such a place.
    spill = target if work is None else work
    if run.ranks.is_first:
        require_room(target, spill, need, budget)
        open_partial(target, fingerprint, work=work)
    return ActivationMemory(budget, spill)


def _make(
    run: _Run, target: Path, fingerprint: Mapping[str, Any], memory: ActivationMemory, progress: ProgressSink
) -> QuantizeResult:
    """Write the checkpoint, the manifest last. The first rank's result is that of all."""

    def make(folder: Path, plan: Plan, progress: ProgressSink) -> None:
        write_shards(
            folder, run.reader, plan, run.stream, run.calibration, memory=memory, ranks=run.ranks, progress=progress
        )
        if run.ranks.is_first:
            write_rest(folder, run.reader, plan)

    followed = _write_checkpoint(target, run, make, progress)

    def finish() -> QuantizeResult:
        notes = read_notes(target, run.plan)
        files, sizes = _content(target)
        run.guard.check()
        made = _result(digest_of(files), sizes, notes, seconds=time.monotonic() - run.begun)
        write_manifest(target, {**_told(fingerprint, made, notes), **followed}, mode=0o644)
        return made

    return QuantizeResult.model_validate(run.ranks.from_first(lambda: _json(finish())))


def _require_one_process(request: QuantizeRequest, ranks: Ranks) -> None:
    if request.selection is not None and ranks.size > 1:
        failure = Failure(reason=FailureReason.SPEC_INVALID, subject="WORLD_SIZE")
        raise StageError(failure, detail="a candidate that is escalated is made by one process")


def _require_outside(model: Path, destination: Destination) -> None:
    """Refuse a folder inside the model's: what is written there changes the model, which would show only at the end."""
    if destination.path.resolve().is_relative_to(model.resolve()):
        option = "--store" if isinstance(destination, Store) else "--out"
        failure = Failure(reason=FailureReason.SPEC_INVALID, subject=subject_of(f"{option}={destination.path}"))
        raise StageError(
            failure, detail="it lies in the model's folder, which must not change; choose a folder outside"
        )


def _of_first(ranks: Ranks, find: Callable[[], QuantizeResult | None]) -> QuantizeResult | None:
    """The result that the first rank finds, on every rank."""

    def told() -> dict[str, Any] | None:
        found = find()
        return None if found is None else _json(found)

    found = ranks.from_first(told)
    return None if found is None else QuantizeResult.model_validate(found)


def _json(result: QuantizeResult) -> dict[str, Any]:
    return result.model_dump(mode="json", by_alias=True)


def _write_checkpoint(target: Path, run: _Run, make: Make, progress: ProgressSink) -> Mapping[str, Any]:
    """Write all files but the manifest, and return what that one says of the plan that was followed."""
    if run.selection is None:
        make(target, run.plan, progress)
        return {"tensorParallel": tensor_parallel(run.reader, run.plan)}
    escalated = escalate(target, run.reader, run.plan, run.selection, make, progress=progress, device=run.stream.device)
    cards = tensor_parallel(run.reader, escalated.plan)
    return {"tensorParallel": cards, "raised": escalated.raised, "rounds": escalated.rounds}


def _told(fingerprint: Mapping[str, Any], result: QuantizeResult, notes: Sequence[BlockNotes]) -> dict[str, Any]:
    """What the manifest says besides its files."""
    return {
        "fingerprint": fingerprint,
        "result": _json(result),
        "layers": [{"block": index, **note.to_json()} for index, note in enumerate(notes)],
    }


def _finished(target: Path, fingerprint: Mapping[str, Any]) -> QuantizeResult | None:
    """The result in a folder's manifest: the run before ended after it was written.

    Raises:
        StageError: `SPEC_INVALID` if the checkpoint there is of another request.
    """
    manifest = read_manifest(target)
    if manifest is None:
        return None
    if request_of(manifest) != fingerprint["request"]:
        failure = Failure(reason=FailureReason.SPEC_INVALID, subject=subject_of(f"--out={target}"))
        raise StageError(failure, detail="it holds a checkpoint of other settings or inputs; choose another folder")
    return QuantizeResult.model_validate(manifest["result"])


def _machine(stream: ModelStream, ranks: Ranks) -> dict[str, Any]:
    """What of software and machine fixes the bytes."""
    return {
        "artefactVersion": ARTEFACT_VERSION,
        "versions": {name: version(name) for name in ("saffron-quantizer", "torch", "transformers", "numba")},
        "isa": torch.backends.cpu.get_cpu_capability(),
        "device": name_of(stream.device),
        "threads": torch.get_num_threads(),
        "dtype": str(stream.dtype),
        "kept": str(stream.kept),
        "batchTokens": BATCH_TOKENS,
        "lengthStep": LENGTH_STEP,
        "worldSize": ranks.size,
    }


def write_rest(folder: Path, reader: CheckpointReader, plan: Plan) -> None:
    """Write what goes with the shards: companions, index and config.json."""
    copy_companions(reader.folder, folder)
    write_index(folder, _sizes(folder))
    modules = {weight.removesuffix(".weight"): precision for weight, precision in plan.precisions.items()}
    quantization = plan.layout.config(modules, plan.unquantized, plan.spec.kv_cache)
    write_json(folder / "config.json", {**reader.config, "quantization_config": quantization})


def _sizes(folder: Path) -> dict[str, dict[str, int]]:
    """For each shard the bytes of each of its tensors."""
    shards = {path.name: read_header(path) for path in sorted(folder.glob("model-*.safetensors"))}
    return {shard: {name: entry.bytes for name, entry in entries.items()} for shard, entries in shards.items()}


def _content(folder: Path) -> tuple[dict[str, tuple[int, str]], list[int]]:
    """For each file of the checkpoint its size and SHA-256; the bytes of each tensor."""
    files = {name: ((folder / name).stat().st_size, file_hash(folder / name)) for name in content_files(folder)}
    return files, [size for entries in _sizes(folder).values() for size in entries.values()]


def _result(
    checkpoint_digest: str, sizes: Sequence[int], notes: Sequence[BlockNotes], *, seconds: float
) -> QuantizeResult:
    return QuantizeResult(
        checkpoint_digest=checkpoint_digest,
        bytes=sum(sizes),
        modules=sum(note.modules for note in notes),
        max_damping=max(note.max_damping for note in notes),
        dead_columns=sum(note.dead_columns for note in notes),
        seconds=round(seconds, 3),
        peak_bytes=peak_bytes(),
    )
