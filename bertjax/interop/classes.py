"""Hugging Face's classes of models: what a folder's is for, and which class ours can be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from bertjax.config import Pooling
from bertjax.errors import UserError
from bertjax.model.assembly import OF_TEXTS, Blueprint, Task

PROBLEMS: dict[str, Task] = {
    "single_label_classification": "classification",
    "multi_label_classification": "multilabel",
    "regression": "regression",
}
"""What a classifier of texts is for, which its class does not say, by `problem_type`."""


def heads_of(family: ModuleType, names: set[str]) -> tuple[str, ...]:
    """Returns which of our heads the tensors are of, in the family's order."""
    found = [head for head, starts in family.HEADS.items() if any(name.startswith(starts) for name in names)]
    return tuple(head for head in found if head != "transform" or "masked_lm" not in found)


def task_of(family: ModuleType, values: Mapping[str, Any], heads: Sequence[str]) -> Task:
    """Returns what the model is for: what its class says, or without one whatever its heads can only be for.

    Raises: UserError if the class is unknown, lacks tensors, or has to be known for the heads.
    """
    named = values.get("architectures") or []
    unknown = [name for name in named if name not in family.CLASSES]
    if unknown:
        raise UserError(
            f"the Hugging Face config says architectures={named!r}; only {', '.join(family.CLASSES)} can be imported"
        )
    task: Task
    if named:
        task, wanted = family.CLASSES[named[0]]
        missing = [head for head in wanted if head not in heads and named[0] != family.BARE]
        if missing:
            raise UserError(
                f"the Hugging Face config says architectures={named!r}, but there are no tensors of {missing}; get the"
                " folder again, or name the class that it holds"
            )
    elif "classifier" in heads:
        raise UserError(
            "the Hugging Face config lacks architectures, and the tensors are a classifier's: of which class?"
        )
    else:
        task = "pretraining"
    return _problem(values, len(labels_of(values, task))) if task == "classification" else task


def _problem(values: Mapping[str, Any], classes: int) -> Task:
    """Returns what a classifier of texts is for; transformers takes one class without more words for a score."""
    problem = values.get("problem_type") or ("regression" if classes == 1 else "single_label_classification")
    if problem not in PROBLEMS or (problem == "regression" and classes > 1):
        raise UserError(
            f"the Hugging Face config says problem_type={problem!r} of {classes} classes; only {', '.join(PROBLEMS)}"
            " can be imported, the last of one"
        )
    return PROBLEMS[problem]


def pooling_of(values: Mapping[str, Any]) -> Pooling:
    """Returns how a classifier of texts takes their vectors, which only ModernBERT's config says."""
    pooling: Pooling = values.get("classifier_pooling", "cls")
    if pooling not in ("cls", "mean"):
        raise UserError(f"the Hugging Face config says classifier_pooling={pooling!r}; use 'cls' or 'mean'")
    return pooling


def labels_of(values: Mapping[str, Any], task: Task) -> tuple[str, ...]:
    """Returns the names of the classes. Raises: UserError if one has no name, or two have the same."""
    if task == "answers":
        return ("start", "end")
    if task == "choice":
        return ("score",)
    named = values.get("id2label") or {str(i): f"LABEL_{i}" for i in range(values.get("num_labels", 2))}
    labels = tuple(str(named.get(str(i))) for i in range(len(named)))
    if set(named) != {str(i) for i in range(len(named))} or len(set(labels)) != len(labels):
        raise UserError(
            f"the Hugging Face config says id2label={named!r}; use a different name for each of 0, 1, 2 ..."
        )
    return labels


def described(b: Blueprint) -> dict[str, Any]:
    """Returns what Hugging Face's config has to say of the classes."""
    found: dict[str, Any] = {}
    if b.task in OF_TEXTS:
        found["problem_type"] = next(problem for problem, task in PROBLEMS.items() if task == b.task)
        found |= {"classifier_pooling": b.pooling} if b.config.family == "modernbert" else {}
    if b.task in OF_TEXTS or b.task == "tagging":
        found["id2label"] = {str(i): label for i, label in enumerate(b.labels)}
        found["label2id"] = {label: i for i, label in enumerate(b.labels)}
    return found


def largest_class(family: ModuleType, b: Blueprint) -> str:
    """Returns the class that has most of the model's heads and none that it lacks."""
    fitting = [name for name in family.CLASSES if _is_for(family, name, b) and not _lacking(family, b, name)]
    if not fitting and "classifier" in b.heads:
        raise UserError(
            f"no class of Hugging Face's has the heads {', '.join(b.heads)}, for {b.task}; --architecture"
            f" {family.BARE} leaves them out"
        )
    return max(fitting, key=lambda name: len(family.CLASSES[name][1]), default=family.BARE)


def blueprint_for(family: ModuleType, b: Blueprint, name: str) -> Blueprint:
    """Returns what is left of the model in that class. Raises: UserError if the model is none of that class."""
    if name not in family.CLASSES:
        raise UserError(f"architecture {name!r} is unknown; use one of {', '.join(family.CLASSES)}")
    task, heads = family.CLASSES[name]
    fits = _is_for(family, name, b)
    if _lacking(family, b, name) or ("classifier" in heads and not fits):
        raise UserError(
            f"{name} has the heads {', '.join(heads)}, the model, for {b.task}, only {', '.join(b.heads) or 'none'}"
        )
    return dataclasses.replace(b, heads=tuple(head for head in heads if head in b.heads), task=b.task if fits else task)


def _is_for(family: ModuleType, name: str, b: Blueprint) -> bool:
    """Returns whether the class is for the model's task; one is for all tasks of whole texts."""
    return bool(family.CLASSES[name][0] == ("classification" if b.task in OF_TEXTS else b.task))


def _lacking(family: ModuleType, b: Blueprint, name: str) -> list[str]:
    """Returns what parts the model from a class: heads of that class that it lacks, a pooling that the class lacks."""
    heads = family.CLASSES[name][1]
    missing = [head for head in heads if head not in b.heads and name != family.BARE]
    return [*missing, *(["weighted"] if "classifier" in heads and "weighted" in b.heads else [])]
