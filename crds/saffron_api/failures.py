"""What can go wrong in a Job or on the command line: a closed list of reasons, each with its exit code and sentence.

The sentence says what was wrong and what to do. Its blanks are filled with the fields of `Failure`, which are
numbers and the names of files and tensors: never a word of anybody's text.
"""

import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from os import PathLike, fspath
from typing import Annotated

from pydantic import Field, StringConstraints

from saffron_api.model import ApiModel


class ExitCode(IntEnum):
    """Exit codes of `saffron`. A Job fails at once on 2 and on 10 to 16; 1 is tried again."""

    DONE = 0
    BUG_OR_RETRYABLE = 1
    USAGE = 2
    SPEC = 10
    DATA = 11
    MODEL = 12
    STORAGE_FULL = 13
    INPUT_CHANGED = 14
    TOO_LITTLE_MEMORY = 15
    UNSUPPORTED = 16
    VERDICT_FAIL = 20
    VERDICT_INCONCLUSIVE = 21


class FailureReason(StrEnum):
    """Why a stage could not do its work."""

    INTERNAL = "Internal"
    INPUT_OUTPUT = "InputOutput"
    ENGINE_FAILED = "EngineFailed"
    SPEC_INVALID = "SpecInvalid"
    IGNORE_UNKNOWN = "IgnoreUnknown"
    IGNORE_SPLITS = "IgnoreSplits"
    IGNORE_ALL = "IgnoreAll"
    ESCALATION_TOO_TIGHT = "EscalationTooTight"
    DATASET_MISSING = "DatasetMissing"
    DATASET_EMPTY = "DatasetEmpty"
    DATASET_MALFORMED = "DatasetMalformed"
    TOO_FEW_CONVERSATIONS = "TooFewConversations"
    CHAT_TEMPLATE_MISSING = "ChatTemplateMissing"
    MODEL_MISSING = "ModelMissing"
    MODEL_UNSAFE = "ModelUnsafe"
    MODEL_INCOMPLETE = "ModelIncomplete"
    MODEL_MALFORMED = "ModelMalformed"
    MODEL_AMBIGUOUS = "ModelAmbiguous"
    MODEL_NOT_FINITE = "ModelNotFinite"
    STORAGE_FULL = "StorageFull"
    MODEL_CHANGED = "ModelChanged"
    INPUT_CHANGED = "InputChanged"
    OUT_OF_MEMORY = "OutOfMemory"
    MEMORY_TOO_SMALL = "MemoryTooSmall"
    GPU_OUT_OF_MEMORY = "GpuOutOfMemory"
    FIGURES_NOT_FINITE = "FiguresNotFinite"
    ARCHITECTURE_UNSUPPORTED = "ArchitectureUnsupported"
    SHAPE_UNSUPPORTED = "ShapeUnsupported"
    ROWS_UNSUPPORTED = "RowsUnsupported"
    CARDS_UNSUPPORTED = "CardsUnsupported"
    GPU_UNUSABLE = "GpuUnusable"
    NUMERICALLY_UNSTABLE = "NumericallyUnstable"
    RANGE_EMPTY = "RangeEmpty"
    SMOOTHING_INEXACT = "SmoothingInexact"
    RANKS_DIFFER = "RanksDiffer"


@dataclass(frozen=True)
class _Entry:
    code: ExitCode
    sentence: str


FAILURES: dict[FailureReason, _Entry] = {
    FailureReason.INTERNAL: _Entry(
        ExitCode.BUG_OR_RETRYABLE,
        "An error that Saffron does not expect ({subject}); the Job's log has the details. Please report it.",
    ),
    FailureReason.INPUT_OUTPUT: _Entry(
        ExitCode.BUG_OR_RETRYABLE,
        "Reading or writing {subject} failed; check the path, the volume and its permissions. A Job tries again by "
        "itself.",
    ),
    FailureReason.ENGINE_FAILED: _Entry(
        ExitCode.BUG_OR_RETRYABLE,
        "The engine at {subject} did not answer as vLLM does; check that it runs, serves the candidate and can be "
        "reached from here.",
    ),
    FailureReason.SPEC_INVALID: _Entry(ExitCode.SPEC, "The request is not valid: {subject}."),
    FailureReason.IGNORE_UNKNOWN: _Entry(
        ExitCode.SPEC,
        "No linear of the model has a name that fits {subject} in ignore; give full names, as "
        "model.layers.0.mlp.down_proj, with * and ? as in file names.",
    ),
    FailureReason.IGNORE_SPLITS: _Entry(
        ExitCode.SPEC,
        "ignore names {have} of the {need} linears {subject}, which engines merge into one layer; name all of them or "
        "none.",
    ),
    FailureReason.IGNORE_ALL: _Entry(
        ExitCode.SPEC, "ignore names every linear of the model, which leaves nothing to quantize; name fewer."
    ),
    FailureReason.ESCALATION_TOO_TIGHT: _Entry(
        ExitCode.SPEC,
        "With nothing raised the candidate has {have} bytes already, and escalate.maxBytesRatio allows {need}; allow "
        "more, or leave escalate out.",
    ),
    FailureReason.DATASET_MISSING: _Entry(
        ExitCode.DATA, "There is no data set at {subject}; check the claim and the path."
    ),
    FailureReason.DATASET_EMPTY: _Entry(
        ExitCode.DATA, "The data set {subject} has no line; it needs at least {need} conversations."
    ),
    FailureReason.DATASET_MALFORMED: _Entry(
        ExitCode.DATA,
        "Line {line} of the data set {subject} is not a JSON object with text, prompt or messages; "
        "write one object a line (JSONL).",
    ),
    FailureReason.TOO_FEW_CONVERSATIONS: _Entry(
        ExitCode.DATA,
        "The data set {subject} has {have} usable conversations and {need} are needed; add data or ask for "
        "fewer samples.",
    ),
    FailureReason.CHAT_TEMPLATE_MISSING: _Entry(
        ExitCode.DATA,
        "Line {line} of the data set {subject} has messages, but the model's tokenizer has no chat template; "
        "use a model with one, or lines with text or prompt.",
    ),
    FailureReason.MODEL_MISSING: _Entry(
        ExitCode.MODEL, "There is no model at {subject}; check the claim and the path (config.json must be there)."
    ),
    FailureReason.MODEL_UNSAFE: _Entry(
        ExitCode.MODEL,
        "The model has its weights in {subject}, a pickle, which can run code when it is read; convert it to "
        "safetensors.",
    ),
    FailureReason.MODEL_INCOMPLETE: _Entry(ExitCode.MODEL, "The model lacks {subject}; copy the model again, whole."),
    FailureReason.MODEL_MALFORMED: _Entry(
        ExitCode.MODEL, "The model's {subject} can't be read; copy the model again, whole."
    ),
    FailureReason.MODEL_AMBIGUOUS: _Entry(
        ExitCode.MODEL,
        "The model has its weights twice: transformers reads model.safetensors, and vLLM what {subject} names; delete "
        "the one that is not the model.",
    ),
    FailureReason.MODEL_NOT_FINITE: _Entry(
        ExitCode.MODEL, "The model's tensor {subject} holds NaN or infinity; use an undamaged model."
    ),
    FailureReason.STORAGE_FULL: _Entry(
        ExitCode.STORAGE_FULL,
        "The volume at {subject} is full: {need} bytes are needed and {have} are free; enlarge the claim or "
        "delete checkpoints that are no longer served.",
    ),
    FailureReason.MODEL_CHANGED: _Entry(
        ExitCode.INPUT_CHANGED,
        "The model's file {subject} changed while it was in use; leave the folder alone during a run, then "
        "change spec.runId.",
    ),
    FailureReason.INPUT_CHANGED: _Entry(
        ExitCode.INPUT_CHANGED, "{subject} changed or is damaged; delete it and change spec.runId."
    ),
    FailureReason.OUT_OF_MEMORY: _Entry(
        ExitCode.TOO_LITTLE_MEMORY,
        "The stage ran out of memory; raise resources.limits.memory in spec.job for it.",
    ),
    FailureReason.MEMORY_TOO_SMALL: _Entry(
        ExitCode.TOO_LITTLE_MEMORY,
        "{subject} needs about {need} bytes of memory and {have} are free; raise resources.limits.memory in spec.job "
        "for it.",
    ),
    FailureReason.GPU_OUT_OF_MEMORY: _Entry(
        ExitCode.TOO_LITTLE_MEMORY,
        "The GPU ran out of memory; use one with more, or compute on the CPU: leave nvidia.com/gpu out of the limits "
        "in spec.job, or say --device cpu.",
    ),
    FailureReason.FIGURES_NOT_FINITE: _Entry(
        ExitCode.UNSUPPORTED,
        "The candidate's {subject} is not a finite number: its weights or activations overflow; use another method "
        "or scheme.",
    ),
    FailureReason.ARCHITECTURE_UNSUPPORTED: _Entry(
        ExitCode.UNSUPPORTED, "The architecture {subject} is not supported; docs/models.md lists those that are."
    ),
    FailureReason.SHAPE_UNSUPPORTED: _Entry(
        ExitCode.UNSUPPORTED,
        "{subject} has {have} input columns, which {need} does not divide; choose a smaller group size.",
    ),
    FailureReason.ROWS_UNSUPPORTED: _Entry(
        ExitCode.UNSUPPORTED,
        "{subject} has {have} output rows, which {need} does not divide; choose format CompressedTensors.",
    ),
    FailureReason.CARDS_UNSUPPORTED: _Entry(
        ExitCode.UNSUPPORTED,
        "{need} cards can't serve the candidate together: at most {have} can share its linears in whole groups and "
        "heads; choose a smaller group size, another scheme or fewer cards.",
    ),
    FailureReason.GPU_UNUSABLE: _Entry(
        ExitCode.UNSUPPORTED,
        "There is no GPU here that can be used ({subject}); check the node's driver and the pod's runtimeClassName, or "
        "compute on the CPU: leave nvidia.com/gpu out of the limits in spec.job, or say --device cpu.",
    ),
    FailureReason.NUMERICALLY_UNSTABLE: _Entry(
        ExitCode.UNSUPPORTED,
        "The Hessian of {subject} has no Cholesky factor at any damping; use more calibration samples or RTN.",
    ),
    FailureReason.RANGE_EMPTY: _Entry(
        ExitCode.UNSUPPORTED,
        "Nothing but zeros reached {subject} in the calibration set, so it can't be measured; use more calibration "
        "samples, or FP8 in the place of FP8Static.",
    ),
    FailureReason.SMOOTHING_INEXACT: _Entry(
        ExitCode.UNSUPPORTED,
        "Smoothing would change what {subject} computes; use RTN, or GPTQ without smoothing, and please report it.",
    ),
    FailureReason.RANKS_DIFFER: _Entry(
        ExitCode.UNSUPPORTED,
        "Processes that work together have different {subject}; give all of them the same image, files and kind of "
        "machine.",
    ),
}
"""Each reason's exit code and its sentence."""

# No space, so that a sentence from a data set can't pass for a name.
_SUBJECT_CHARACTERS = r"A-Za-z0-9._:/,=+()\[\]-"
_SUBJECT_LENGTH = 300
Subject = Annotated[str, StringConstraints(max_length=_SUBJECT_LENGTH, pattern=rf"^[{_SUBJECT_CHARACTERS}]*$")]


def subject_of(name: str | PathLike[str]) -> str:
    """A name as the subject of a failure: other characters become "_", and a long name keeps its end."""
    return re.sub(rf"[^{_SUBJECT_CHARACTERS}]", "_", fspath(name))[-_SUBJECT_LENGTH:]


OTHER_RANKS = "the-other-ranks"
"""The subject of `INPUT_OUTPUT` where one of several processes lost the others, and so is not the one that failed."""


class Failure(ApiModel):
    """Why a stage failed, as it stands in the termination message."""

    reason: FailureReason
    subject: Subject | None = Field(default=None, description="A file, tensor or option: never content.")
    have: int | None = None
    need: int | None = None
    line: int | None = None

    @property
    def exit_code(self) -> ExitCode:
        """What the process ends with."""
        return FAILURES[self.reason].code

    @property
    def message(self) -> str:
        """The sentence for people: what was wrong, where, and what to do."""
        return FAILURES[self.reason].sentence.format(
            subject=self.subject or "it", have=_shown(self.have), need=_shown(self.need), line=self.line or "?"
        )


def _shown(number: int | None) -> str:
    return "an unknown number of" if number is None else str(number)


class StageError(Exception):
    """A stage can't do its work for a known reason.

    Attributes:
        failure: what the operator is told.
        detail: what a person who reads the log is told besides, as "it has text and prompt"; empty, or words of our
            own about names of fields and files, never content. It is no part of the termination message.
    """

    def __init__(self, failure: Failure, *, detail: str = "") -> None:
        super().__init__(f"{failure.message} ({detail})" if detail else failure.message)
        self.failure = failure
        self.detail = detail
