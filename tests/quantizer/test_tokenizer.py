"""Texts and chats become tokens with <bos> exactly once, and the right ones are scored."""

import shutil

import pytest

from saffron_api.failures import Failure, FailureReason, StageError
from saffron_quantizer.data.lines import Chat, Text, Turn
from saffron_quantizer.data.tokenizer import Encoded, NoChatTemplateError, Tokenizer

BOS, UNKNOWN, USER, ASSISTANT, END = 1, 3, 4, 5, 6


def chat(*turns):
    return Chat(tuple(Turn(role, content) for role, content in turns))


ENCODED = {
    "all of a text after <bos> is scored": (Text("w8 w9 w10"), Encoded((BOS, 8, 9, 10), (1, 4))),
    "a text that begins with <bos> has it once": (Text("<bos> w8 w9"), Encoded((BOS, 8, 9), (1, 3))),
    "a text that begins with <bos> twice has it once": (Text("<bos><bos> w8"), Encoded((BOS, 8), (1, 2))),
    "an empty text has nothing to score": (Text(""), Encoded((BOS,), (1, 1))),
    "the last answer of a chat is scored": (
        chat(("user", "w8"), ("assistant", "w9"), ("user", "w10"), ("assistant", "w11 w12")),
        Encoded((BOS, USER, 8, END, ASSISTANT, 9, END, USER, 10, END, ASSISTANT, 11, 12, END), (11, 13)),
    ),
    "an answer is found where it repeats the question": (
        chat(("user", "w8"), ("assistant", "w8")),
        Encoded((BOS, USER, 8, END, ASSISTANT, 8, END), (5, 6)),
    ),
    "an answer is found though the template trims it": (
        chat(("user", "w8"), ("assistant", "  w9\n")),
        Encoded((BOS, USER, 8, END, ASSISTANT, 9, END), (5, 6)),
    ),
    "an answer is found where what the template ends it with has the same letters": (
        chat(("user", "w8"), ("assistant", "end")),
        Encoded((BOS, USER, 8, END, ASSISTANT, UNKNOWN, END), (5, 6)),
    ),
    "what follows the last answer is cut off": (
        chat(("user", "w8"), ("assistant", "w9"), ("user", "w10")),
        Encoded((BOS, USER, 8, END, ASSISTANT, 9, END), (5, 6)),
    ),
    "a chat without an answer is scored after <bos>": (chat(("user", "w8")), Encoded((BOS, USER, 8, END), (1, 4))),
    "a chat with an empty answer has nothing to score": (
        chat(("user", "w8"), ("assistant", "")),
        Encoded((BOS, USER, 8, END, ASSISTANT, END), (1, 1)),
    ),
}


@pytest.mark.parametrize(("content", "expected"), ENCODED.values(), ids=ENCODED.keys())
def test_encoding(speaking_model, content, expected):
    assert Tokenizer(speaking_model).encode(content) == expected


def test_a_chat_needs_a_template(speaking_model, tmp_path):
    shutil.copytree(speaking_model, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    with pytest.raises(NoChatTemplateError):
        Tokenizer(tmp_path / "model").encode(chat(("user", "w8")))


BROKEN = {
    "no folder": (shutil.rmtree, FailureReason.MODEL_MISSING),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), FailureReason.MODEL_INCOMPLETE),
    "a tokenizer that is no JSON": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        FailureReason.MODEL_MALFORMED,
    ),
}


def test_a_tokenizer_in_another_form_is_told_how_to_convert(speaking_model, tmp_path):
    shutil.copytree(speaking_model, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").rename(tmp_path / "model" / "tokenizer.model")
    with pytest.raises(StageError) as caught:
        Tokenizer(tmp_path / "model")
    assert caught.value.failure == Failure(reason=FailureReason.MODEL_INCOMPLETE, subject="tokenizer.json")
    assert caught.value.detail == (
        "it has tokenizer.model alone; transformers' AutoTokenizer writes the other when it saves what it loaded"
    )


@pytest.mark.parametrize(("damage", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_model_with(speaking_model, tmp_path, damage, reason):
    folder = tmp_path / "model"
    shutil.copytree(speaking_model, folder)
    damage(folder)
    with pytest.raises(StageError) as caught:
        Tokenizer(folder)
    assert caught.value.failure.reason is reason


def test_the_template_has_its_own_digest(speaking_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(speaking_model, folder)
    before = Tokenizer(folder)
    (folder / "chat_template.jinja").write_text("{{ bos_token }}")
    after = Tokenizer(folder)
    assert (before.digest == after.digest, before.template_digest == after.template_digest) == (True, False)
