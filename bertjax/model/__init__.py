"""The encoder, its attention, and its heads."""
