"""The demo: one QuantizedModel on a real cluster, from `kubectl apply` to a promoted checkpoint, told as it happens.

`tour.py` is the place to start: it holds the steps in their order. Each other file is one concern of it, and the
tests under tests/e2e walk the same steps.
"""
