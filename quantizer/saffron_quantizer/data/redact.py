"""Replace what identifies people before anything is written.

Patterns find the usual forms, not every form: redaction lowers a risk, it gives no guarantee. Where a pattern is in
doubt (four numbers with dots may be a version), it replaces.
"""

import ipaddress
import re
from collections.abc import Iterable

from saffron_api.quantized_model import RedactKind

# A look-behind anchors each pattern at the start of a word, so that a long run of word characters is tried once.
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]+@[\w-]+(?:\.[\w-]+)+")
_DIGIT_RUN = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,}")
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IPV4 = re.compile(rf"(?<![\d.])(?:{_OCTET}\.){{3}}{_OCTET}(?!\.?\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:.]{3,45}(?![\w:])")
# Possessive, so that a run of digits has one way to be cut into pieces.
_PIECE = r"(?:[ ./-]?\(?\d{1,5}+\)?)"
_PHONE = re.compile(
    rf"(?<![\w.+/-])(?:\+\(?\d{{1,3}}+\)?{_PIECE}{{1,6}}|\(?0\d{{1,5}}+\)?{_PIECE}{{1,6}}"
    r"|\(?\d{3}\)?[ .-]{1,2}\d{3}[ .-]\d{4})(?![\w/-])"
)

_CARD_DIGITS = range(13, 20)
_PHONE_DIGITS = range(9, 16)


def redact(text: str, kinds: Iterable[RedactKind]) -> str:
    """A text with every address, number or card of these kinds replaced by its kind in brackets, as "[EMAIL]"."""
    asked = frozenset(kinds)
    # Cards before phones: a card's digits can look like a phone number, and a phone number never passes as a card.
    for kind in (RedactKind.EMAIL, RedactKind.IP, RedactKind.CARD, RedactKind.PHONE):
        if kind in asked:
            text = _REDACTORS[kind](text)
    return text


def _emails(text: str) -> str:
    return _EMAIL.sub("[EMAIL]", text)


def _addresses(text: str) -> str:
    return _IPV6.sub(_ipv6, _IPV4.sub("[IP]", text))


def _ipv6(match: re.Match[str]) -> str:
    # A full stop or a colon may end the sentence and not the address.
    address = match[0].rstrip(".") if match[0].endswith(".") else match[0].removesuffix(":")
    has_digits = any(character not in ":." for character in address)
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return match[0]
    return "[IP]" + match[0][len(address) :] if has_digits else match[0]


def _cards(text: str) -> str:
    return _DIGIT_RUN.sub(lambda match: _cards_in_run(match[0]), text)


def _cards_in_run(run: str) -> str:
    """Replace each card in a run of digits with single spaces or hyphens between them.

    A card starts and ends at a group's edge, and other numbers may stand beside it in the same run.
    """
    groups = re.findall(r"\d+|[ -]", run)
    shown: list[str] = []
    first = 0
    while first < len(groups):
        length = _card_length(groups, first)
        shown.append("[CARD]" if length else groups[first])
        first += length or 1
    return "".join(shown)


def _card_length(groups: list[str], first: int) -> int:
    """How many groups the longest card that starts at a group has; 0 if none starts there."""
    digits: list[int] = []
    length = 0
    for last in range(first, len(groups)):
        if not groups[last].isdigit():
            if not digits:
                break
            continue
        digits += map(int, groups[last])
        if len(digits) > _CARD_DIGITS[-1]:
            break
        if len(digits) in _CARD_DIGITS and any(digits) and _luhn(digits):
            length = last - first + 1
    return length


def _luhn(digits: list[int]) -> bool:
    """Whether the last digit is the check digit of ISO/IEC 7812-1, annex B."""
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _phones(text: str) -> str:
    return _PHONE.sub(_phone, text)


def _phone(match: re.Match[str]) -> str:
    """Replace the longest beginning that has a phone number's count of digits; other numbers may follow it."""
    found, digits, end = match[0], 0, 0
    for piece in re.finditer(r"\d+\)?", found):
        digits += sum(map(str.isdigit, piece[0]))
        if digits in _PHONE_DIGITS:
            end = piece.end()
    return "[PHONE]" + found[end:] if end else found


_REDACTORS = {
    RedactKind.EMAIL: _emails,
    RedactKind.IP: _addresses,
    RedactKind.CARD: _cards,
    RedactKind.PHONE: _phones,
}
