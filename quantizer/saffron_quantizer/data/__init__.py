"""From lines that people wrote to token sequences: read, redacted, tokenized, and drawn into three disjoint sets."""
