"""bertjax pretrains BERT-family encoders from your own text in JAX, fine-tunes them, and hands them on."""

from __future__ import annotations

__version__ = "0.1.0"
