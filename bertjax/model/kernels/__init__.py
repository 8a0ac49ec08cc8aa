"""Kernels of others, and two of our own in Triton, for what XLA does not compute in one."""

from bertjax.model.kernels.choice import (
    Case,
    Kernel,
    add_and_norm,
    attend,
    case_of,
    check,
    choose,
    norm_obstacle,
    obstacle,
    supported,
)

__all__ = [
    "Case",
    "Kernel",
    "add_and_norm",
    "attend",
    "case_of",
    "check",
    "choose",
    "norm_obstacle",
    "obstacle",
    "supported",
]
