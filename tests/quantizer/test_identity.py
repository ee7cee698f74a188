"""What a folder is, that a change of it is noticed, and that an artefact without its manifest does not exist."""

import hashlib
import json
import os

import pytest

from saffron_api.failures import FailureReason, StageError
from saffron_quantizer.checkpoint.identity import FolderGuard, model_digest
from saffron_quantizer.checkpoint.manifest import read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    (made / "sub").mkdir(parents=True)
    (made / "a.txt").write_text("one")
    (made / "sub" / "b.txt").write_text("two")
    return made


def refused(action):
    with pytest.raises(StageError) as caught:
        action()
    return caught.value.failure.reason, caught.value.failure.subject


def test_the_digest_is_over_sorted_paths_sizes_and_hashes(folder):
    one, two = (hashlib.sha256(text).hexdigest() for text in (b"one", b"two"))
    lines = f"a.txt\0003\0{one}\nsub/b.txt\0003\0{two}\n"
    assert model_digest(folder, hash_cache=None) == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("name", ["manifest.json", "report.json", ".cache/state", ".gitattributes"])
def test_what_is_about_a_folder_is_not_in_its_digest(folder, name):
    before = model_digest(folder, hash_cache=None)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    assert model_digest(folder, hash_cache=None) == before


def test_a_remembered_hash_is_taken_as_long_as_size_and_time_are_the_same(folder, tmp_path):
    cache = tmp_path / "work" / "hashes.json"
    first = model_digest(folder, hash_cache=cache)
    remembered = json.loads(cache.read_text())
    key = str(folder / "a.txt")
    remembered[key][2] = "0" * 64
    cache.write_text(json.dumps(remembered))
    assert model_digest(folder, hash_cache=cache) != first
    os.utime(folder / "a.txt", ns=(1, 1))
    assert model_digest(folder, hash_cache=cache) == first
    assert cache.stat().st_mode & 0o777 == 0o600


CHANGES = {
    "a file is written again": (lambda f: (f / "a.txt").write_text("other"), "a.txt"),
    "a file comes": (lambda f: (f / "new.txt").write_text(""), "new.txt"),
    "a file goes": (lambda f: (f / "sub" / "b.txt").unlink(), "sub/b.txt"),
    "a file is touched": (lambda f: os.utime(f / "a.txt", ns=(1, 1)), "a.txt"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_while_the_folder_is_in_use_is_noticed(folder, case):
    change, name = CHANGES[case]

    def use():
        with FolderGuard(folder):
            change(folder)

    assert refused(use) == (FailureReason.MODEL_CHANGED, name)


def test_a_change_since_the_hashes_were_remembered_is_noticed(folder, tmp_path):
    model_digest(folder, hash_cache=tmp_path / "hashes.json")
    with FolderGuard(folder, hash_cache=tmp_path / "hashes.json"):
        pass
    (folder / "a.txt").write_text("six")
    os.utime(folder / "a.txt", ns=(5, 5))
    assert refused(lambda: FolderGuard(folder, hash_cache=tmp_path / "hashes.json")) == (
        FailureReason.MODEL_CHANGED,
        "a.txt",
    )


def test_a_missing_folder_is_a_missing_model(tmp_path):
    assert refused(lambda: model_digest(tmp_path / "none", hash_cache=None))[0] is FailureReason.MODEL_MISSING


def test_a_manifest_tells_of_every_file_and_what_else_it_is_given(folder):
    assert read_manifest(folder) is None
    write_manifest(folder, {"note": 1})
    assert read_manifest(folder) == {
        "schema": "saffron.dev/manifest/v1",
        "note": 1,
        "files": {
            name: {"size": 3, "sha256": hashlib.sha256(text).hexdigest()}
            for name, text in (("a.txt", b"one"), ("sub/b.txt", b"two"))
        },
    }


@pytest.mark.parametrize("damage", ["a file is gone", "a file is longer", "the manifest is cut short"])
def test_a_damaged_artefact_is_refused(folder, damage):
    write_manifest(folder, {})
    if damage == "a file is gone":
        (folder / "a.txt").unlink()
    elif damage == "a file is longer":
        (folder / "a.txt").write_text("three")
    else:
        (folder / "manifest.json").write_text("{")
    reason, subject = refused(lambda: read_manifest(folder))
    assert reason is FailureReason.INPUT_CHANGED
    assert subject.endswith("manifest.json" if "manifest" in damage else "a.txt")
