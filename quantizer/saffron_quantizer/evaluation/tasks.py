"""Task accuracy: original and candidate on local tasks of lm-evaluation-harness, paired item by item.

The harness makes pairs of a context and a continuation of each item and says what a right answer is. Log-probabilities
come from our own walk over the files, block by block, so a task needs no more memory than any evaluation. Nothing is
downloaded and no code of a task is run: its data are files, and a task that asks for more is refused.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np
import torch
from lm_eval.evaluator import evaluate as harness
from lm_eval.tasks import TaskManager

from saffron_api.failures import FailureReason
from saffron_api.gates import MIN_UNITS
from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.data.tokenizer import Tokenizer
from saffron_quantizer.evaluation.bootstrap import Vector, ratio_bounds
from saffron_quantizer.evaluation.hidden import scored_hidden
from saffron_quantizer.evaluation.local_tasks import invalid_task
from saffron_quantizer.evaluation.power import unseen_share
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.progress import ProgressSink
from saffron_quantizer.report import TaskRow

_ROWS = 256

Metrics = Mapping[tuple[str, str], Vector]
"""A number for each item, by task and metric."""


@dataclass(frozen=True)
class TaskModel:
    """A model that answers. The harness knows it by these names.

    Attributes:
        stream: the model.
        tokenizer: its own.
        activity: what progress calls it.
        not_finite: whose fault a state that is NaN or infinite is.
        progress: told after each block.
        rank: of this process among those that share the work: there are no others.
        world_size: how many they are.
    """

    stream: ModelStream
    tokenizer: Tokenizer
    activity: str
    not_finite: FailureReason
    progress: ProgressSink
    rank: int = field(default=0, init=False)
    world_size: int = field(default=1, init=False)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For each (context, continuation) the continuation's log-probability, and whether greedy decoding finds it."""
        sequences = [self._sequence(*request.args) for request in requests]
        hidden = scored_hidden(
            self.stream, sequences, activity=self.activity, not_finite=self.not_finite, progress=self.progress
        )
        found, greedy = [], []
        for start in range(0, len(hidden.targets), _ROWS):
            rows = slice(start, start + _ROWS)
            log = self.stream.logits(hidden.states[rows]).log_softmax(dim=1).cpu()  # [rows, vocabulary]
            targets = hidden.targets[rows]
            found.append(log.gather(1, targets[:, None])[:, 0].double())
            greedy.append(log.argmax(dim=1) == targets)
        lengths = [sequence.scored for sequence in sequences]
        parts = zip(torch.split(torch.cat(found), lengths), torch.split(torch.cat(greedy), lengths), strict=True)
        return [(float(log.sum()), bool(same.all())) for log, same in parts]

    def _sequence(self, context: str, continuation: str) -> TokenSequence:
        encoded = self.tokenizer.encode_pair(context, continuation)
        return TokenSequence(encoded.tokens, encoded.score, conversation="")


def compare_tasks(original: TaskModel, candidate: TaskModel, folder: Path, *, level: float) -> list[TaskRow]:
    """Both models on every task of a folder.

    Args:
        original: asked first.
        candidate: asked the same.
        folder: that `check_tasks` takes.
        level: of each one-sided bound of a difference, by the bootstrap over items.

    Raises:
        StageError: `SPEC_INVALID` if the harness does not take a task.
    """
    before, after = _metrics(original, folder), _metrics(candidate, folder)
    return [_row(*key, before[key], after[key], level) for key in before]


def _metrics(model: TaskModel, folder: Path) -> Metrics:
    """The numbers of a model on every item."""
    with _loaded(folder) as tasks:
        found = harness(model, tasks, bootstrap_iters=0, log_samples=True)["samples"]
    return {
        (task, metric): np.array([float(item[metric]) for item in items])
        for task, items in sorted(found.items())
        for metric in items[0]["metrics"]
        if all(isinstance(item[metric], int | float) for item in items)
    }


@contextlib.contextmanager
def _loaded(folder: Path) -> Iterator[Any]:
    """The tasks of a folder. What the library keeps of their items is gone afterwards."""
    before = datasets.config.HF_DATASETS_CACHE
    datasets.disable_progress_bars()
    with TemporaryDirectory() as scratch, contextlib.chdir(folder):
        datasets.config.HF_DATASETS_CACHE = Path(scratch)
        try:
            yield _load(folder)
        finally:
            datasets.config.HF_DATASETS_CACHE = before


def _load(folder: Path) -> Any:  # noqa: ANN401 the harness has no types
    """The tasks of the current folder, with one item of each tried."""
    try:
        manager = TaskManager(include_path=".", include_defaults=False)
        return manager.load(manager.all_subtasks)
    except Exception as error:
        # It raises whatever its templates and readers raise, in words that may quote an item.
        raise invalid_task(folder, f"lm-evaluation-harness does not take it: {type(error).__name__}") from error


def _row(task: str, metric: str, before: Vector, after: Vector, level: float) -> TaskRow:
    """One metric of one task; fewer items than bounds can rest on have none."""
    difference = after - before
    lower: float | None = None
    upper: float | None = None
    if len(difference) >= MIN_UNITS:
        bounds = ratio_bounds(difference, np.ones(len(difference)), level=level)
        lower, upper = bounds.lower, bounds.upper
        if not difference.any():
            # Not one item differs, which says only that few do.
            upper = unseen_share(len(difference), level)
            lower = -upper
    return TaskRow(
        task=task,
        metric=metric,
        original=float(before.mean()),
        candidate=float(after.mean()),
        difference=float(difference.mean()),
        lower=lower,
        upper=upper,
        items=len(difference),
    )
