"""The quantizer: what runs in Jobs and in the `saffron` command; it knows nothing of a cluster."""
