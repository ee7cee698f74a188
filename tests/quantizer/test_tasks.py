"""Tasks of lm-evaluation-harness: a tiny model on tiny tasks, against the definitions.

They need the harness, which `make test-tasks` installs.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from saffron_api.failures import StageError
from saffron_quantizer.checkpoint.identity import model_digest
from saffron_quantizer.cli.table import report_text
from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.evaluation.evaluate import EvaluateRequest, evaluate
from saffron_quantizer.evaluation.local_tasks import tasks_digest
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.progress import ignore

pytest.importorskip("lm_eval", reason="make test-tasks installs it")
from saffron_quantizer.evaluation.tasks import _row

CHOICES = ["w20 w21", "w22", "w23 w24 w25"]
CHOOSE = {
    "task": "choose",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "items.jsonl"}},
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_choice": CHOICES,
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
CONTINUE = {
    "task": "continue",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "items.jsonl"}},
    "output_type": "loglikelihood",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": " w20",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture
def tasks(tmp_path):
    """Two tasks on 40 items, whose data lie beside them."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    items = [{"question": f"w{7 + n} w{8 + n % 9} w{50 - n}", "answer": n % 3} for n in range(40)]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    for task in (CHOOSE, CONTINUE):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    return folder


@pytest.fixture
def request_(speaking_model, speaking_checkpoint, tasks):
    sequences = [TokenSequence((1, *range(7 + n, 12 + n)), (1, 6), f"c{n}") for n in range(3)]
    return EvaluateRequest(
        original=speaking_model,
        model_digest=model_digest(speaking_model, hash_cache=None),
        candidate=speaking_checkpoint,
        sequences=sequences,
        baseline=None,
        confidence=0.95,
        tasks=tasks,
    )


def logits_after(stream, tokens):
    return stream.logits(stream.final_hidden([torch.tensor(tokens)])[0]).double().log_softmax(dim=1)


def accuracies(folder):
    """The share of right answers of each task by its definition: words are their own numbers, <bos> is 1."""
    stream = ModelStream.open(folder)
    chosen, continued = [], []
    for n in range(40):
        question = [1, 7 + n, 8 + n % 9, 50 - n]
        scores = []
        for choice in CHOICES:
            answer = [int(word[1:]) for word in choice.split()]
            log = logits_after(stream, question + answer)
            scores.append(sum(log[len(question) - 1 + place, token].item() for place, token in enumerate(answer)))
        chosen.append(int(np.argmax(scores)) == n % 3)
        continued.append(logits_after(stream, question)[-1].argmax().item() == 20)
    return [np.mean(chosen), np.mean(continued)]


def test_accuracy_is_what_its_definition_says(request_):
    rows = evaluate(request_, None, ignore).tasks
    assert [(row.task, row.metric, row.items) for row in rows] == [("choose", "acc", 40), ("continue", "acc", 40)]
    assert [row.original for row in rows] == pytest.approx(accuracies(request_.original))
    assert [row.candidate for row in rows] == pytest.approx(accuracies(request_.candidate))
    assert [row.difference for row in rows] == pytest.approx([row.candidate - row.original for row in rows])
    assert all(row.lower <= row.difference <= row.upper for row in rows)


def test_a_model_against_itself_differs_nowhere_and_no_more_than_that_is_claimed():
    row = _row("choose", "acc", np.array([1.0, 0.0] * 30), np.array([1.0, 0.0] * 30), 0.95)
    # The rule of three: of 60 items none differs, so at most one in twenty does.
    assert (row.difference, row.lower, row.upper) == (
        0.0,
        pytest.approx(-0.0487, abs=1e-4),
        pytest.approx(0.0487, abs=1e-4),
    )


def test_few_items_have_no_bounds():
    row = _row("choose", "acc", np.array([1.0, 0.0] * 10), np.array([0.0, 0.0] * 10), 0.95)
    assert (row.difference, row.lower, row.upper) == (-0.5, None, None)


def test_a_report_tells_them_and_is_used_again_for_the_same_tasks_only(request_, tasks):
    report = evaluate(request_, None, ignore)
    lines = report_text(report).splitlines()
    assert [line.split()[:2] for line in lines[-2:]] == [["choose", "acc"], ["continue", "acc"]]
    assert evaluate(request_, report, ignore) is report
    before = tasks_digest(tasks)
    (tasks / "continue.yaml").unlink()
    assert tasks_digest(tasks) != before
    assert [row.task for row in evaluate(request_, report, ignore).tasks] == ["choose"]
    assert evaluate(replace(request_, tasks=None), report, ignore).tasks == []


def test_what_the_harness_does_not_take_is_told_without_its_words(request_, tasks):
    (tasks / "items.jsonl").write_text('{"other": "w7"}\n')
    with pytest.raises(StageError) as caught:
        evaluate(request_, None, ignore)
    assert caught.value.detail == "lm-evaluation-harness does not take it: UndefinedError"
