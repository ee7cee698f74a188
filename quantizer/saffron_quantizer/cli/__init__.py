"""The `saffron` command: one file a subcommand, and what they share: options, progress, and how errors end."""
