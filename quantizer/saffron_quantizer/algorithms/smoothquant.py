"""SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models (arXiv 2211.10438).

A token's activations share one scale, so a few large channels leave the others few codes. Dividing each channel by a
scale, and multiplying the weights that read it, moves part of that difficulty into the weights, which are easy.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from saffron_quantizer.algorithms.smoothing import Smoothing, centred, coarse_to_fine


def smoothquant(activations: Tensor, weights: Tensor, error_of: Callable[[Tensor], float]) -> Smoothing:
    """Search s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), alpha in 0..1 (equation 4), for the least output error.

    The paper takes one alpha for all of a model; here each edge has its own, and none where no alpha is better.

    Args:
        activations: [channels] max|X_j| over the tokens.
        weights: [channels] max|W_j| over the rows of all linears that read the channels.
            A channel that is 0 in either keeps the scale 1.
        error_of: scales -> error at the output of the module around those linears, with weights and activations
            rounded.
    """
    alive = (activations > 0) & (weights > 0)
    x = torch.where(alive, activations.float(), 1.0).log()
    w = torch.where(alive, weights.float(), 1.0).log()
    return coarse_to_fine(
        torch.ones_like(x), lambda alpha: centred((alpha * x - (1 - alpha) * w).exp(), alive), error_of
    )
