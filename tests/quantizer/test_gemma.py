"""The real model: sliding and global layers, (1 + w) norms, a scaled and tied embedding of 262,144 tokens."""

import pytest
import torch
import transformers

from saffron_dev.gemma import fetch_gemma
from saffron_quantizer.models.stream import ModelStream

pytestmark = [pytest.mark.gemma, pytest.mark.timeout(600)]


def test_the_walk_gives_the_logits_of_the_whole_model():
    folder = fetch_gemma()
    generator = torch.Generator().manual_seed(0)
    # 600 tokens are more than the window of 512.
    sequences = [
        torch.cat([torch.tensor([2]), torch.randint(3, 200_000, (n,), generator=generator)]) for n in (599, 32)
    ]
    stream = ModelStream.open(folder, dtype=torch.float32)
    hidden = stream.final_hidden(sequences)
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for sequence, ours in zip(sequences, hidden, strict=True):
        with torch.no_grad():
            expected = whole(sequence[None]).logits[0]
        # Float32 sums of up to 2,048 terms in another order, through 18 blocks, on logits of up to 40.
        torch.testing.assert_close(stream.logits(ours), expected, rtol=1e-5, atol=2e-4)
