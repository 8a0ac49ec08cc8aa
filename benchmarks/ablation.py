"""What is each technique of the train step worth here? One at a time is taken away, or another put in its place.

    python -m benchmarks.ablation [--config=FILE --group.field=value ...] [--only gather precision ...]

The step as the config has it, without --config that of `benchmarks.train_step`, and variants of it take turns, each in
a process of its own. Prints a JSON line for each: real tokens a second, beside the default's of the same turns, and
`gain`, how many times faster the default is. In `kernel` and `norm` XLA computes instead of what the config takes. The
XLA flags that may matter on the backend are variants, too.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding

from benchmarks.alternation import Contender, alternate, ratio
from benchmarks.our_step import Change, our_step
from benchmarks.result import print_result
from benchmarks.rows import with_every_position
from benchmarks.train_step import Measured, read_batch, shape
from bertjax import backend, command_line
from bertjax.config import Config
from bertjax.data.batches import Batch
from bertjax.errors import UserError, reported
from bertjax.model import encoder, layers


@dataclasses.dataclass(frozen=True)
class Arguments(Measured):
    """Times the train step with and without each of its techniques."""

    only: tuple[str, ...] = ()
    """Names of variants; none takes all."""
    together: int = 3
    """Variants that take turns with the default at a time; each process holds a model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.together < 1:
            raise ValueError(f"together={self.together} is less than 1; use 1 or more")


class Variant(NamedTuple):
    """What is other than in the default."""

    fields: Mapping[str, dict[str, Any]] = {}
    """Of the config's groups."""
    change: Change | None = None
    """Replaces a part of the code."""
    every_position: bool = False
    donate: bool = True
    environment: Mapping[str, str] = {}


CPU_FLAGS = {
    "onednn": backend.ONEDNN.replace("true", "false") if backend.has_onednn() else backend.ONEDNN,
    "xnnpack": "--xla_cpu_use_xnnpack=true",
    "concurrency": "--xla_cpu_enable_concurrency_optimized_scheduler=false",
    "wide_vectors": "--xla_cpu_prefer_vector_width=512",
}
"""Those that jax 0.10 and 0.12 both know; `onednn` is without it where it is on by default."""

GPU_FLAGS = {"cublas": backend.CUBLAS.replace("false", "true"), "cublaslt": "--xla_gpu_enable_cublaslt=false"}


def variants(c: Config) -> dict[str, Variant]:
    """Returns them by name; those that are as the config has it are left out."""
    of_backend = CPU_FLAGS if backend.only_cpus() else GPU_FLAGS
    scanned = backend.has_tpus() if c.model.unroll_layers == "auto" else not c.model.unroll_layers
    found = {
        "gather": Variant(every_position=True),
        "three_products": Variant(change=one_product),
        "padded_vocabulary": Variant(change=exact_vocabulary),
        "shared_words": Variant(change=whole_words),
        "gelu_by_erf": Variant(change=gelu_by_erfc),
        "donation": Variant(donate=False),
        "kept_memory": Variant(change=plain_allocator),
        "layers": Variant({"model": {"unroll_layers": scanned}}),
        "attention_dropout": Variant({"model": {"attention_dropout": 0.0}}),
        "kernel": Variant({"model": {"attention": "xla"}}),
        "norm": Variant({"model": {"norm": "xla"}}),
        "dropout": Variant({"model": {"dropout": 0.0, "attention_dropout": 0.0}}),
        **{f"precision_{name}": Variant({"train": {"precision": name}}) for name in ("float32", "bfloat16")},
        **{f"remat_{way}": Variant({"model": {"remat": way}}) for way in ("none", "products", "block")},
        **{f"prng_{name}": Variant({"train": {"prng": name}}) for name in ("threefry2x32", "rbg", "unsafe_rbg")},
        **{name: Variant(environment={"XLA_FLAGS": flags(flag)}) for name, flag in of_backend.items()},
    }
    if backend.has_tpus():
        del found["three_products"]  # which has one
    if not backend.has_cuda():
        del found["norm"]
    return {name: v for name, v in found.items() if not v.fields or with_fields(c, v.fields) != c}


def flags(added: str) -> str:
    """Returns XLA's flags with one more."""
    return f"{os.environ.get('XLA_FLAGS', '')} {added}".strip()


def with_fields(c: Config, groups: Mapping[str, dict[str, Any]]) -> Config:
    """Returns the config with these fields of its groups."""
    changed = {name: dataclasses.replace(getattr(c, name), **fields) for name, fields in groups.items()}
    return dataclasses.replace(c, **changed)


def one_product() -> None:
    """Makes query, key and value in one product, which is cut apart."""
    setattr(layers, "in_three_products", layers.in_one_product)  # noqa: B010


def exact_vocabulary() -> None:
    """Leaves the vocabulary as long as it is."""
    setattr(encoder, "VOCAB_MULTIPLE", 1)  # noqa: B010


def whole_words() -> None:
    """Draws a random word for every element that may be dropped, the generator's pair of which JAX makes one."""

    def draw_kept(shape: Sequence[int], rate: float, key: jax.Array | None, cut: NamedSharding) -> jax.Array | None:
        if key is None or rate == 0:
            return None
        words = jax.random.bits(key, tuple(shape), jnp.uint32, out_sharding=cut)
        return checkpoint_name(words >= round(rate * 2**32), layers.DRAWS)

    setattr(layers, "draw_kept", draw_kept)  # noqa: B010


def gelu_by_erfc() -> None:
    """Takes JAX's GELU, in the dtype of what comes in."""
    setattr(layers, "gelu", lambda x, c: jax.nn.gelu(x, approximate=c.gelu == "tanh"))  # noqa: B010


def plain_allocator() -> None:
    """Leaves glibc's allocator as it is."""
    setattr(backend, "_keep_freed_memory", lambda: None)  # noqa: B010


def contender(v: Variant, c: Config, batch: Batch, next_sentence: bool) -> Contender:
    """Returns how a variant is made."""
    batch = with_every_position(batch) if v.every_position else batch
    return Contender(
        our_step, (with_fields(c, v.fields), batch, next_sentence, None, v.change, v.donate), v.environment
    )


def measure(a: Arguments) -> Iterator[dict[str, Any]]:
    """Yields the figures of each variant. Raises: UserError for one that there is not."""
    c, batch, next_sentence = read_batch(a)
    there = variants(c)
    for name in a.only:
        if name not in there:
            raise UserError(f"only={name!r} is no variant of this config; use of {', '.join(there)}")
    names = list(a.only or there)
    tokens = shape(c, batch)["tokens"]
    for start in range(0, len(names), a.together):
        some = {name: there[name] for name in names[start : start + a.together]}
        contenders = {
            name: contender(v, c, batch, next_sentence) for name, v in ({"default": Variant()} | some).items()
        }
        timings = alternate(contenders, rounds=a.rounds, turn_seconds=a.turn_seconds, at_once=a.at_once)
        for name in some:
            timing, default = timings[name], timings["default"]
            speeds = {"tokens_per_second": tokens / timing.median, "of_default": tokens / default.median}
            yield {"without": name, **speeds, "gain": ratio(timing, default)} | timing.facts


def main() -> None:
    """The command."""
    a = command_line.arguments_of(Arguments, __doc__ or "")
    with reported():
        for row in measure(a):
            print_result("ablation", row, "jax", "flax")


if __name__ == "__main__":
    main()
