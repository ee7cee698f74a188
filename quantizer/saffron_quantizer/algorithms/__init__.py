"""Quantization algorithms: functions from tensors to frozen results, with no files, models or devices in them."""
