"""Checkpoints on disk: reading and writing safetensors folders, their formats, digests and manifests."""
