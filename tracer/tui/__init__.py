"""The terminal UI: a reader of a capture that may still grow. Nothing imports it but the command line."""
