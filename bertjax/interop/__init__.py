"""Checkpoints in and out of other formats, strict in both directions."""
