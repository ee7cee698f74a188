"""What identifies people is replaced by its kind; what only looks like it is left alone."""

import pytest

from saffron_api.quantized_model import RedactKind
from saffron_quantizer.data.redact import redact

REPLACED = {
    "an address": ("write to jane.doe+x@example.co.uk.", "write to [EMAIL]."),
    "an address of a short domain": ("a@b.de", "[EMAIL]"),
    "a card in groups": ("card 4111 1111 1111 1111, thanks", "card [CARD], thanks"),
    "a card without groups": ("4111111111111111", "[CARD]"),
    "a card with hyphens": ("5500-0000-0000-0004", "[CARD]"),
    "a card after another number": ("1234 4111 1111 1111 1111", "1234 [CARD]"),
    "a number with a wrong check digit is no card": ("4111 1111 1111 1112", "4111 1111 1111 1112"),
    "an IPv4 address with a port": ("10.0.0.1:8080", "[IP]:8080"),
    "an IPv6 address at the end of a sentence": ("from 2001:db8::1.", "from [IP]."),
    "the loopback": ("::1 is local", "[IP] is local"),
    "a time is no address": ("12:30:45", "12:30:45"),
    "a double colon is no address": ("x :: Int, std::vector", "x :: Int, std::vector"),
    "five numbers with dots are no address": ("1.2.3.4.5", "1.2.3.4.5"),
    "an international phone number": ("+49 170 1234567", "[PHONE]"),
    "an American phone number": ("(555) 123-4567", "[PHONE]"),
    "a phone number with a slash": ("0170/1234567", "[PHONE]"),
    "a phone number before a year": ("+1 (212) 555 0199, 2024", "[PHONE], 2024"),
    "a date is no phone number": ("2024-01-15 and 15.01.2024", "2024-01-15 and 15.01.2024"),
    "years are no phone number": ("1999-2004", "1999-2004"),
    "a number without separators is no phone number": ("1700000000", "1700000000"),
    "a decimal is no phone number": ("3.14159265358", "3.14159265358"),
    "several kinds": ("a@b.de at 10.0.0.1", "[EMAIL] at [IP]"),
}


@pytest.mark.parametrize(("text", "expected"), REPLACED.values(), ids=REPLACED.keys())
def test_what_is_replaced(text, expected):
    assert redact(text, list(RedactKind)) == expected


def test_only_the_kinds_asked_for_are_replaced():
    assert redact("a@b.de at 10.0.0.1", [RedactKind.IP]) == "a@b.de at [IP]"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["a", "1 ", "1.2.3.", "a:", "(0", "0123456789x ", "+1(1", "a@", "a@b.", "0 "])
def test_no_text_takes_for_ever(piece):
    redact(piece * (20_000 // len(piece)), list(RedactKind))
