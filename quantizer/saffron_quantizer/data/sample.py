"""The Sample stage: draw the calibration, selection and gate sets from a data set and write them as tokens."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from saffron_api.quantized_model import RedactKind
from saffron_api.results import SampleResult, SampleSet
from saffron_quantizer.artefact import finish, open_artefact
from saffron_quantizer.atomic import PRIVATE_FILE, private_folder, write_file
from saffron_quantizer.checkpoint.identity import file_hash
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.data.lines import Chat, Line, Text, Turn, read_lines
from saffron_quantizer.data.redact import redact
from saffron_quantizer.data.sequences import TokenSequence, to_jsonl, tokenize, too_few
from saffron_quantizer.data.split import SetSizes, by_conversation, cut, set_sizes, without_repeats
from saffron_quantizer.data.tokenizer import Tokenizer
from saffron_quantizer.progress import Progress, ProgressSink

_log = logging.getLogger(__name__)

SETS = ("calibration", "selection", "gate")
"""The sets, in the order in which they are drawn; each is a file NAME.jsonl."""


@dataclass(frozen=True)
class SampleRequest:
    """What to draw, and from where.

    Attributes:
        dataset: JSONL with text, prompt or messages.
        model: folder whose tokenizer and chat template are used.
        model_digest: the model's digest where it is known; it is only recorded.
        calibration_samples: conversations that fit the weights.
        evaluation_samples: conversations that the gates look at; a quarter as much again is for searches.
        max_tokens: tokens that a sequence keeps.
        redact: what is replaced before anything is written.
        seed: changes which conversation goes where.
    """

    dataset: Path
    model: Path
    model_digest: str | None
    calibration_samples: int
    evaluation_samples: int
    max_tokens: int
    redact: tuple[RedactKind, ...]
    seed: int

    @property
    def sizes(self) -> SetSizes:
        """Conversations for each set."""
        return set_sizes(calibration_samples=self.calibration_samples, evaluation_samples=self.evaluation_samples)


def sample(request: SampleRequest, out: Path, progress: ProgressSink) -> SampleResult:
    """Write the sets into a folder that only its owner can read; a finished one is only reported.

    Raises:
        StageError: the data set or the model can't be used, the disk is full, or the folder holds something else.
    """
    settings = {"stage": "sample", **{key: _plain(value) for key, value in asdict(request).items()}}
    files = [f"{name}.jsonl" for name in SETS]
    private_folder(out)
    finished = open_artefact(out, settings=settings, files=files)
    if finished is not None:
        _tell_of_a_change(out, request.dataset)
        return SampleResult.model_validate(finished)
    lines = read_lines(request.dataset, need=request.sizes.total)
    drawn_from = file_hash(request.dataset)
    tokenizer = Tokenizer(request.model)
    kinds = sorted(request.redact)
    usable = tokenize(
        by_conversation(without_repeats(_redact(line, kinds) for line in lines), request.seed),
        tokenizer,
        max_tokens=request.max_tokens,
        path=request.dataset,
    )
    need = request.sizes.total
    chosen = dict(islice(_counted(usable, need, progress), need))
    if len(chosen) < need:
        raise too_few(request.dataset, have=len(chosen), need=need)
    sets = cut(chosen, [getattr(request.sizes, name) for name in SETS])
    written = {name: _write(out / f"{name}.jsonl", drawn) for name, drawn in zip(SETS, sets, strict=True)}
    result = SampleResult(**written)
    digests = {
        "datasetDigest": drawn_from,
        "tokenizerDigest": tokenizer.digest,
        "templateDigest": tokenizer.template_digest,
    }
    finish(out, settings=settings, result=result, notes=digests)
    return result


def _tell_of_a_change(out: Path, dataset: Path) -> None:
    """Say so where sets were drawn from a data set that is another one by now; one that is gone is needed no more."""
    drawn_from = (read_manifest(out) or {}).get("datasetDigest")
    if drawn_from is not None and dataset.is_file() and file_hash(dataset) != drawn_from:
        told = "%s has changed since the sets in %s were drawn from it; choose a new folder to draw them again."
        _log.warning(told, dataset, out)


def _plain(value: object) -> Any:  # noqa: ANN401 a JSON value
    if isinstance(value, tuple):
        return sorted(str(item) for item in value)
    return str(value) if isinstance(value, Path) else value


def _redact(line: Line, kinds: Sequence[RedactKind]) -> Line:
    content = line.content
    if isinstance(content, Text):
        return replace(line, content=Text(redact(content.text, kinds)))
    if isinstance(content, Chat):
        turns = tuple(Turn(turn.role, redact(turn.content, kinds)) for turn in content.turns)
        return replace(line, content=Chat(turns))
    return line


def _counted(
    conversations: Iterator[tuple[str, list[TokenSequence]]], need: int, progress: ProgressSink
) -> Iterator[tuple[str, list[TokenSequence]]]:
    for done, conversation in enumerate(conversations, start=1):
        progress(Progress("tokenizing conversations", done, need))
        yield conversation


def _write(path: Path, drawn: dict[str, list[TokenSequence]]) -> SampleSet:
    sequences = [sequence for conversation in drawn.values() for sequence in conversation]
    data = to_jsonl(sequences)
    write_file(path, data, mode=PRIVATE_FILE)
    return SampleSet(
        count=len(drawn),
        tokens=sum(len(sequence.tokens) for sequence in sequences),
        digest=hashlib.sha256(data).hexdigest(),
    )
