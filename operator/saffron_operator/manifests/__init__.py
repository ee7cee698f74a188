"""Builders of what we create or apply: one kind of manifest a file, pure functions, no reading of the cluster."""
