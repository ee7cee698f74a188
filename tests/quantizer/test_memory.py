"""What a process gives back of its memory."""

from saffron_quantizer.memory import give_back_free_memory, keep_memory_small


def test_a_process_goes_on_after_it_gave_memory_back():
    kept = [bytes([number]) * 100_000 for number in range(100)]
    keep_memory_small()
    give_back_free_memory()
    assert [piece[-1] for piece in kept] == list(range(100))
