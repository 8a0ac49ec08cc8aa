"""Kernels of others, and two of our own in Triton, for what XLA does not compute in one."""

from bertjax.model.kernels.choice import (
    Case,
    Kernel,
    attend,
    case_of,
    check,
    choose,
    describe,
    norm_obstacle,
    norm_of,
    obstacle,
    supported,
)

__all__ = [
    "Case",
    "Kernel",
    "attend",
    "case_of",
    "check",
    "choose",
    "describe",
    "norm_obstacle",
    "norm_of",
    "obstacle",
    "supported",
]
