"""Kernels: one op is one stem of reference, kernel, test and benchmark."""
