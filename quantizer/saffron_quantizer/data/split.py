"""Draw whole conversations into disjoint sets by a hash, so that the same input always gives the same sets."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from saffron_quantizer.data.lines import Chat, Line, Text

_SELECTION_SHARE = 4


@dataclass(frozen=True)
class SetSizes:
    """How many conversations each set gets."""

    calibration: int
    selection: int
    gate: int

    @property
    def total(self) -> int:
        """Conversations in all three."""
        return self.calibration + self.selection + self.gate


def set_sizes(*, calibration_samples: int, evaluation_samples: int) -> SetSizes:
    """The sizes asked for; the selection set is a quarter, rounded up, as much again as the gate set."""
    selection = -(-evaluation_samples // _SELECTION_SHARE)
    return SetSizes(calibration=calibration_samples, selection=selection, gate=evaluation_samples)


def without_repeats(lines: Iterable[Line]) -> Iterator[Line]:
    """The lines whose content was not there before, so that no text can lie in two sets."""
    seen: set[str] = set()
    for line in lines:
        digest = _content_digest(line)
        if digest not in seen:
            seen.add(digest)
            yield line


def by_conversation(lines: Iterable[Line], seed: int) -> dict[str, list[Line]]:
    """Lines by the hash of their conversation, SHA-256(seed, id) in hex, in the order of these hashes.

    A line without a conversation is one of its own, named by its content.
    """
    grouped: dict[str, list[Line]] = {}
    for line in lines:
        # Two kinds of names, so that no given id can meet the digest of a text.
        name = f"line:{_content_digest(line)}" if line.conversation is None else f"id:{line.conversation}"
        grouped.setdefault(hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest(), []).append(line)
    return dict(sorted(grouped.items()))


Value = TypeVar("Value")


def cut(conversations: Mapping[str, Value], sizes: Sequence[int]) -> list[dict[str, Value]]:
    """The first conversations as sets of these sizes: a hash has no favourites, so each set is a fair draw."""
    items = iter(conversations.items())
    return [dict(islice(items, size)) for size in sizes]


def _content_digest(line: Line) -> str:
    content = line.content
    if isinstance(content, Text):
        parts = ["text", content.text.strip()]
    elif isinstance(content, Chat):
        parts = ["chat", *(part for turn in content.turns for part in (turn.role, turn.content.strip()))]
    else:
        parts = ["tokens", *map(str, content.tokens)]
    # Lengths before the parts, so that no two lists of parts read the same.
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()
