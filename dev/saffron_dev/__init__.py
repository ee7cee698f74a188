"""A real local Kubernetes, built from package registries, for the demo and the tests."""
