"""Which tasks of lm-evaluation-harness are taken, and how their pairs become tokens; the harness is not needed."""

import pytest
import yaml

from saffron_api.failures import FailureReason, StageError
from saffron_quantizer.data.tokenizer import Tokenizer
from saffron_quantizer.evaluation.local_tasks import check_tasks, tasks_digest

CHOOSE = {
    "task": "choose",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "items.jsonl"}},
    "output_type": "multiple_choice",
}


@pytest.fixture
def tasks(tmp_path):
    (tmp_path / "choose.yaml").write_text(yaml.safe_dump(CHOOSE))
    (tmp_path / "items.jsonl").write_text("{}\n")
    return tmp_path


def test_tasks_that_are_files_are_taken(tasks):
    check_tasks(tasks)


def test_any_change_of_a_file_changes_the_digest(tasks):
    before = tasks_digest(tasks)
    assert tasks_digest(tasks) == before
    (tasks / "items.jsonl").write_text("{ }\n")
    assert tasks_digest(tasks) != before


REFUSED = {
    "code": ("doc_to_text: !function utils.text\n", "a task that names functions runs code"),
    "a base elsewhere": (yaml.safe_dump({**CHOOSE, "include": "/etc/base.yaml"}), "not a task that stands for itself"),
    "a data set of the hub": (yaml.safe_dump({**CHOOSE, "dataset_path": "ai2_arc"}), "its dataset_path must be one of"),
    "a file of the web": (
        yaml.safe_dump({**CHOOSE, "dataset_kwargs": {"data_files": "https://host/items.jsonl"}}),
        "with files beside it",
    ),
    "generation": (yaml.safe_dump({**CHOOSE, "output_type": "generate_until"}), "no text is generated"),
    "no mapping": ("- 1\n", "not a task that stands for itself"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_task_that_asks_for(text, words, tasks):
    (tasks / "more.yaml").write_text(text)
    with pytest.raises(StageError) as caught:
        check_tasks(tasks)
    assert caught.value.failure.reason is FailureReason.SPEC_INVALID
    assert words in caught.value.detail


def test_a_folder_without_a_task_is_refused(tmp_path):
    with pytest.raises(StageError, match="there is no task in it"):
        check_tasks(tmp_path)


def test_the_continuation_is_scored_and_white_space_before_it_belongs_to_it(speaking_model):
    encoded = Tokenizer(speaking_model).encode_pair("w7 w8 ", "w9 w10")
    assert (encoded.tokens, encoded.score) == ((1, 7, 8, 9, 10), (3, 5))
    alone = Tokenizer(speaking_model).encode_pair("", "w9")
    assert (alone.tokens, alone.score) == ((1, 9), (1, 2))
