"""How quantized checkpoints are laid out on disk: one file a format, each to the bit as engines read it."""
