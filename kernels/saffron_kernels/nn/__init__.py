"""Layers on top of an op or two: linears that compute from quantized weights, one a kind of arithmetic, and RMSNorm.

The linears take the tensors of a compressed-tensors checkpoint as these are stored.
"""

from saffron_kernels.nn.rms_norm import RmsNorm
from saffron_kernels.nn.scaled_linear import Fp8Linear, Int8Linear, StaticFp8Linear
from saffron_kernels.nn.weight_only_linear import W4A16Linear, W8A16Linear

__all__ = ["Fp8Linear", "Int8Linear", "RmsNorm", "StaticFp8Linear", "W4A16Linear", "W8A16Linear"]
