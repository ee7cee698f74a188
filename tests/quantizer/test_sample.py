"""The Sample stage: what it writes, for whom, and that the same input gives the same bytes."""

import json
import shutil
import stat

import pytest

from saffron_api.failures import Failure, FailureReason, StageError
from saffron_api.quantized_model import RedactKind
from saffron_quantizer.data.sample import SampleRequest, sample
from saffron_quantizer.data.sequences import TokenSequence, check_vocabulary, load_sequences
from saffron_quantizer.progress import ignore

FILES = ["calibration.jsonl", "gate.jsonl", "manifest.json", "selection.jsonl"]


def write_data(path, count, *, repeats=0):
    lines = [
        {"text": f"w{7 + number % 80} w{8 + number // 80} w9", "conversation": f"c{number}"} for number in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *lines[:repeats]]))
    return path


def request(model, dataset, **fields):
    settings = {
        "model_digest": None,
        "calibration_samples": 4,
        "evaluation_samples": 8,
        "max_tokens": 16,
        "redact": (),
        "seed": 0,
    }
    return SampleRequest(dataset=dataset, model=model, **{**settings, **fields})


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_sets_are_disjoint_and_of_the_sizes_asked_for(speaking_model, tmp_path):
    data = write_data(tmp_path / "d.jsonl", 20, repeats=5)
    result = sample(request(speaking_model, data), tmp_path / "out", ignore)
    sets = {name: read(tmp_path / "out" / f"{name}.jsonl") for name in ("calibration", "selection", "gate")}
    conversations = [line["conversation"] for lines in sets.values() for line in lines]
    assert (result.calibration.count, result.selection.count, result.gate.count) == (4, 2, 8)
    assert (len(conversations), len(set(conversations))) == (14, 14)
    assert all(line["tokens"][0] == 1 and line["score"] == [1, 4] for lines in sets.values() for line in lines)


def test_only_its_owner_can_read_it(speaking_model, tmp_path):
    out = tmp_path / "deep" / "out"
    sample(request(speaking_model, write_data(tmp_path / "d.jsonl", 20)), out, ignore)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()}
    assert modes == dict.fromkeys(FILES, 0o600)
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (out, out.parent)] == [0o700, 0o700]


def test_the_same_input_gives_the_same_bytes(speaking_model, tmp_path):
    data = write_data(tmp_path / "d.jsonl", 20)
    for out in ("a", "b"):
        sample(request(speaking_model, data), tmp_path / out, ignore)
    a, b = ({path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("a", "b"))
    assert (a, sorted(a)) == (b, FILES)


def test_a_finished_one_is_only_reported(speaking_model, tmp_path):
    data = write_data(tmp_path / "d.jsonl", 20)
    first = sample(request(speaking_model, data), tmp_path / "out", ignore)
    data.unlink()
    assert sample(request(speaking_model, data), tmp_path / "out", ignore) == first


def test_a_finished_one_whose_data_set_has_changed_since_says_so(speaking_model, tmp_path, caplog):
    data = write_data(tmp_path / "d.jsonl", 20)
    first = sample(request(speaking_model, data), tmp_path / "out", ignore)
    sample(request(speaking_model, data), tmp_path / "out", ignore)
    assert caplog.messages == []
    write_data(data, 30)
    assert sample(request(speaking_model, data), tmp_path / "out", ignore) == first
    (told,) = caplog.messages
    assert told.startswith(f"{data} has changed since the sets in {tmp_path}/out were drawn from it; ")


def test_what_a_killed_run_left_is_written_again(speaking_model, tmp_path):
    data = write_data(tmp_path / "d.jsonl", 20)
    whole = sample(request(speaking_model, data), tmp_path / "out", ignore)
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "gate.jsonl").write_text("half a li")
    (tmp_path / "out" / ".gate.jsonl.partial").write_text("half a li")
    assert sample(request(speaking_model, data), tmp_path / "out", ignore) == whole
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


def failure(work):
    with pytest.raises(StageError) as caught:
        work()
    return caught.value.failure


def words(work):
    with pytest.raises(StageError) as caught:
        work()
    return str(caught.value)


def test_a_folder_made_with_other_settings_is_refused(speaking_model, tmp_path):
    data = write_data(tmp_path / "d.jsonl", 20)
    sample(request(speaking_model, data), tmp_path / "out", ignore)
    told = words(lambda: sample(request(speaking_model, data, seed=1), tmp_path / "out", ignore))
    assert told == (
        f"The request is not valid: --out={tmp_path}/out. "
        "(it was made with another seed; delete it or choose a new folder)"
    )


def test_a_folder_with_other_files_is_refused(speaking_model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    data = write_data(tmp_path / "d.jsonl", 20)
    told = words(lambda: sample(request(speaking_model, data), tmp_path / "out", ignore))
    assert told == (
        f"The request is not valid: --out={tmp_path}/out. (it holds letter.txt, which is not ours; choose a new folder)"
    )
    assert (tmp_path / "out" / "letter.txt").read_text() == "mine"


def test_too_few_conversations_are_refused_with_have_and_need(speaking_model, tmp_path):
    data = write_data(tmp_path / "d.jsonl", 13)
    refused = failure(lambda: sample(request(speaking_model, data), tmp_path / "out", ignore))
    assert refused == Failure(reason=FailureReason.TOO_FEW_CONVERSATIONS, subject=str(data), have=13, need=14)
    assert list((tmp_path / "out").iterdir()) == []


def test_conversations_with_nothing_to_score_do_not_count(speaking_model, tmp_path):
    data = write_data(tmp_path / "d.jsonl", 13)
    data.write_text(data.read_text() + '{"text": "  "}\n')
    refused = failure(lambda: sample(request(speaking_model, data), tmp_path / "out", ignore))
    assert (refused.have, refused.need) == (13, 14)


def test_what_identifies_people_is_not_written(speaking_model, tmp_path):
    data = tmp_path / "d.jsonl"
    # The tokenizer knows no word of it, so only equal token counts could tell: two texts become one by redaction.
    data.write_text('{"text": "w8 a@b.de"}\n{"text": "w8 c@d.de"}\n{"text": "w9"}\n{"text": "w10"}\n')
    settings = {"calibration_samples": 1, "evaluation_samples": 1}
    sample(request(speaking_model, data, redact=(RedactKind.EMAIL,), **settings), tmp_path / "a", ignore)
    few = {**settings, "calibration_samples": 2}
    refused = failure(
        lambda: sample(request(speaking_model, data, redact=(RedactKind.EMAIL,), **few), tmp_path / "b", ignore)
    )
    assert (refused.have, refused.need) == (3, 4)


def test_a_long_sequence_keeps_its_beginning(speaking_model, tmp_path):
    data = tmp_path / "d.jsonl"
    data.write_text(json.dumps({"text": " ".join(f"w{number}" for number in range(10, 60))}) + "\n")
    (sequence,) = load_sequences(data, speaking_model, max_tokens=16)
    assert (sequence.tokens, sequence.score) == ((1, *range(10, 25)), (1, 16))


def test_sampled_lines_are_read_as_they_were_written(speaking_model, tmp_path):
    sample(request(speaking_model, write_data(tmp_path / "d.jsonl", 20)), tmp_path / "out", ignore)
    path = tmp_path / "out" / "gate.jsonl"
    expected = [TokenSequence(tuple(line["tokens"]), tuple(line["score"]), line["conversation"]) for line in read(path)]
    assert load_sequences(path, speaking_model, max_tokens=16) == expected
    assert load_sequences(path, speaking_model, max_tokens=16, samples=3) == expected[:3]


def test_raw_lines_are_read_as_sample_reads_them(speaking_model, tmp_path):
    data = write_data(tmp_path / "d.jsonl", 14)
    sample(request(speaking_model, data), tmp_path / "out", ignore)
    sampled = [
        sequence
        for name in ("calibration", "selection", "gate")
        for sequence in load_sequences(tmp_path / "out" / f"{name}.jsonl", speaking_model, max_tokens=16)
    ]
    assert load_sequences(data, speaking_model, max_tokens=16) == sampled


def test_sampled_and_raw_lines_do_not_mix(speaking_model, tmp_path):
    data = tmp_path / "d.jsonl"
    data.write_text('{"tokens": [1, 2], "score": [1, 2], "conversation": "a"}\n{"text": "w8"}\n')
    refused = failure(lambda: load_sequences(data, speaking_model, max_tokens=16))
    assert (refused.reason, refused.line) == (FailureReason.DATASET_MALFORMED, 2)


def test_a_chat_without_a_template_is_refused_with_its_line(speaking_model, tmp_path):
    shutil.copytree(speaking_model, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    data = tmp_path / "d.jsonl"
    data.write_text('{"text": "w8"}\n{"messages": [{"role": "user", "content": "w8"}]}\n')
    refused = failure(lambda: load_sequences(data, tmp_path / "model", max_tokens=16))
    assert refused == Failure(reason=FailureReason.CHAT_TEMPLATE_MISSING, subject=str(data), line=2)


def test_tokens_of_another_model_are_refused(speaking_model, tmp_path):
    sequences = [TokenSequence((1, 8), (1, 2), "a"), TokenSequence((1, 97), (1, 2), "b")]
    refused = failure(lambda: check_vocabulary(sequences, speaking_model, tmp_path / "d.jsonl"))
    assert (refused.reason, refused.line) == (FailureReason.DATASET_MALFORMED, 2)
