"""The quickstart's text: the documentation inside the installed libraries, read from their sources, never imported.

`write_corpus` collects it for pretraining; `write_classification` makes a labelled task of it: from which library does
a sentence come, when it names no library and no module?
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bertjax import cache
from bertjax.data.docstrings import FEWEST_CHARACTERS, is_document, prose
from bertjax.data.near_duplicates import groups
from bertjax.data.prepare import prepare
from bertjax.data.sentences import split_sentences
from bertjax.data.settings import PrepareConfig
from bertjax.errors import UserError

NAME = "installed-docs"
"""What a config calls this text where others have a path."""
VOCAB_SIZE = 8000
VALIDATION_SHARE = 0.05
STANDARD_LIBRARY = "python"
# Package -> the distribution that carries it. A library that is not installed is left out.
DISTRIBUTIONS = {
    "numpy": "numpy",
    "scipy": "scipy",
    "jax": "jax",
    "flax": "flax",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "tensorflow_datasets": "tensorflow-datasets",
}
ALIASES = {"np", "jnp", "jsp", "tf", "tfds", "tensorflow", "ocp", "keras", "torch", "pytorch", "cpython", "py"}
_NOT_DOCUMENTATION = {
    "__pycache__", "dist-packages", "idlelib", "lib2to3", "site-packages", "test", "tests", "turtledemo",
}  # fmt: skip
_TRIPLE = re.compile(b'"""|' + b"'''")
_WORD = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
_LIBRARY = re.compile("|".join([*DISTRIBUTIONS, *("lax", "nnx", "python", "tensorflow", "tfds")]))  # also as in jaxlib
_FUNCTION_WORDS = {"at", "none", "other", "this"}  # the standard library has modules of these names
_MASKED = "X"
FEWEST_SENTENCES = 1000  # of a library that becomes a class
SENTENCE_CHARACTERS = range(40, 301)
SPLITS = {"train": 0.7, "validation": 0.15, "test": 0.15}


@dataclasses.dataclass(frozen=True)
class Docstring:
    """The English in one."""

    paragraphs: tuple[str, ...]
    library: str
    """Top-level package, or `python` for the standard library."""
    name: str
    """Where it stands, as `numpy.linalg.norm`."""


def collect(roots: dict[str, list[Path]] | None = None) -> Iterator[Docstring]:
    """Yields every docstring with enough English in it once, in the same order each time.

    `roots` are the folders of each library's sources, by default those of `installed_roots`.
    """
    seen: set[tuple[str, ...]] = set()
    for library, folders in (installed_roots() if roots is None else roots).items():
        for path, module in _modules(library, folders):
            for name, text in _docstrings(path):
                text = text.encode(errors="ignore").decode()  # a lone half of a surrogate pair cannot be written
                paragraphs = tuple(prose(text)) if len(text) >= FEWEST_CHARACTERS else ()
                if is_document(paragraphs) and paragraphs not in seen:
                    seen.add(paragraphs)
                    yield Docstring(paragraphs, library, f"{module}.{name}" if name else module)


def installed_roots() -> dict[str, list[Path]]:
    """Returns the folders of each library's sources, found without importing the library."""
    roots = {STANDARD_LIBRARY: [Path(sysconfig.get_path("stdlib"))]}
    for package in DISTRIBUTIONS:
        spec = importlib.util.find_spec(package)  # of a top-level name: imports nothing
        if spec is not None:
            roots[package] = [Path(folder) for folder in spec.submodule_search_locations or ()]
    return roots


def _modules(library: str, folders: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yields each source file with its module's dotted name."""
    prefix = [] if library == STANDARD_LIBRARY else [library]
    for folder in folders:
        for parent, directories, files in os.walk(folder):
            directories[:] = sorted(name for name in directories if name not in _NOT_DOCUMENTATION)
            for file in sorted(files):
                path = Path(parent, file)
                if path.suffix == ".py" and not path.stem.endswith("_test"):
                    parts = path.relative_to(folder).with_suffix("").parts
                    yield path, ".".join([*prefix, *parts]).removesuffix(".__init__")


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (qualified name, text) of every long docstring in a file; those of a C extension stand in calls."""
    source = path.read_bytes()
    # Parsing takes nearly all the time of collecting, and half of the files have nothing to read.
    if not any(len(part) >= FEWEST_CHARACTERS for part in _TRIPLE.split(source)[1::2]):
        return
    tree = ast.Module(body=[], type_ignores=[])
    with warnings.catch_warnings(), contextlib.suppress(SyntaxError):  # files for other versions of Python
        warnings.simplefilter("ignore")  # invalid escape sequences in other people's code
        tree = ast.parse(source)
    yield from _topics(tree) if path.parts[-2:] == ("pydoc_data", "topics.py") else _walk(tree, "")


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield name, ast.get_docstring(node, clean=False) or ""
    for child in getattr(node, "body", []) + getattr(node, "orelse", []):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, f"{name}.{child.name}".removeprefix("."))
        elif isinstance(child, ast.If | ast.Try):
            yield from _walk(child, name)
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            yield from _added_docs(child.value)


def _added_docs(call: ast.Call) -> Iterator[tuple[str, str]]:
    """Yields the texts that NumPy and SciPy attach to compiled functions, `add_newdoc("module", "name", "text")`."""
    if isinstance(call.func, ast.Name) and "add_newdoc" in call.func.id:
        strings = [n.value for n in ast.walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        if len(strings) >= 2:
            yield ".".join(strings[-3:-1]), max(strings, key=len)


def _topics(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yields the chapters of the language reference, which pydoc keeps as a dictionary of strings."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from sorted(ast.literal_eval(node.value).items())


def cache_directory() -> Path:
    """Returns where what is made from the installed libraries is kept: another folder for other versions of them."""
    versions = [f"{STANDARD_LIBRARY} {platform.python_version()}"]
    for package, distribution in DISTRIBUTIONS.items():
        if importlib.util.find_spec(package) is not None:
            versions.append(f"{distribution} {importlib.metadata.version(distribution)}")
    here = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]  # how it is made counts too
    digest = hashlib.sha256(b"\0".join([*map(str.encode, versions), *here])).hexdigest()[:12]
    return cache.directory() / f"installed-docs-{digest}"


def prepared(seq_len: int) -> Path:
    """Returns the corpus in rows of `seq_len`, collected and prepared on the first call for these versions.

    Of several processes one makes it, the others wait.
    """
    directory = cache_directory()
    output = directory / f"prepared-{seq_len}"
    with cache.locked(directory):
        if not (output / "manifest.json").exists():
            settings = PrepareConfig(
                output=str(output), vocab_size=VOCAB_SIZE, seq_len=seq_len, validation_share=VALIDATION_SHARE
            )
            prepare(settings, [_collected(directory)])
    return output


def classification_files() -> dict[str, str]:
    """Returns the files of the labelled task by split, made on the first call for these versions, as `prepared` is."""
    directory = cache_directory()
    paths = {split: directory / "classification" / f"{split}.jsonl" for split in SPLITS}
    with cache.locked(directory):
        if not all(path.exists() for path in paths.values()):
            write_classification(_collected(directory), directory / "classification")
    return {split: str(path) for split, path in paths.items()}


def _collected(directory: Path) -> Path:
    """Returns the text in the folder, which is written whole or not at all, or else collects it."""
    corpus = directory / "corpus.jsonl"
    if corpus.exists():
        return corpus
    print(f"collecting the documentation of the installed libraries into {directory}", file=sys.stderr)
    return write_corpus(corpus)


def write_corpus(path: Path, roots: dict[str, list[Path]] | None = None) -> Path:
    """Writes one JSON line a document, {"paragraphs", "group", "library"}, and returns the path.

    Near-duplicates have the same group: the name of the first of them.

    Raises: UserError if there is no documentation, as in an installation without sources.
    """
    documents = list(collect(roots))
    if not documents:
        raise UserError("the installed libraries carry no documentation in their sources; give a corpus of your own")
    first = groups(["\n".join(document.paragraphs) for document in documents])
    rows = (
        {"paragraphs": document.paragraphs, "group": documents[i].name, "library": document.library}
        for document, i in zip(documents, first, strict=True)
    )
    return _write_rows(path, rows)


def write_classification(
    corpus: Path,
    directory: Path,
    roots: dict[str, list[Path]] | None = None,
    fewest: int = FEWEST_SENTENCES,
) -> dict[str, Path]:
    """Writes train, validation and test.jsonl, {"text", "label"}, from what `write_corpus` wrote; returns their paths.

    A text is a sentence, its label the library, each equally often in each split. It names no library and no module.
    Sentences of a group of near-duplicates are in one split, and in none if the group spans libraries; a sentence that
    stands in several groups is in none.

    Raises: UserError if fewer than two libraries have the `fewest` sentences that a class needs.
    """
    names = module_names(installed_roots() if roots is None else roots)
    groups_of: defaultdict[str, list[list[str]]] = defaultdict(list)
    for label, paragraphs in _one_per_group(corpus):
        sentences = [s for paragraph in paragraphs for s in split_sentences(mask_names(paragraph, names).encode())]
        groups_of[label].append([s for s in dict.fromkeys(sentences) if len(s) in SENTENCE_CHARACTERS])
    times = Counter(s for groups_ in groups_of.values() for group in groups_ for s in group)
    texts_of: dict[str, dict[str, list[str]]] = {}
    for label, groups_ in groups_of.items():
        splits = texts_of[label] = {split: [] for split in SPLITS}
        for group in filter(None, groups_):
            splits[_split_of(group[0])] += [s for s in group if times[s] == 1]
    classes = [label for label, splits in texts_of.items() if sum(map(len, splits.values())) >= fewest]
    if len(classes) < 2:
        raise UserError(f"{corpus}: {len(classes)} libraries have {fewest} sentences; telling apart needs two")
    paths = {}
    for split in SPLITS:
        size = min(len(texts_of[label][split]) for label in classes)
        rows = [(s, label) for label in classes for s in sorted(texts_of[label][split], key=_digest)[:size]]
        rows.sort(key=lambda row: _digest(row[0]))
        paths[split] = _write_rows(directory / f"{split}.jsonl", ({"text": s, "label": label} for s, label in rows))
    return paths


def _split_of(text: str) -> str:
    """Returns a split, each with the probability of its share."""
    place, end = int.from_bytes(_digest(text)[:4]) / 2**32, 0.0
    for split, share in SPLITS.items():
        end += share
        if place < end:
            return split
    return split


def _one_per_group(corpus: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields (library, paragraphs) of the first document of each group that lies within one library."""
    rows_of: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    with corpus.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            rows_of[row["group"]].append(row)
    for rows in rows_of.values():
        if len({row["library"] for row in rows}) == 1:
            yield rows[0]["library"], rows[0]["paragraphs"]


def module_names(roots: dict[str, list[Path]]) -> set[str]:
    """Returns every component of the libraries' module names in lower case, less the words no sentence does without."""
    modules = (module for library, folders in roots.items() for _, module in _modules(library, folders))
    components = {part.strip("_").lower() for module in modules for part in module.split(".")}
    return (components | ALIASES | set(roots)) - _FUNCTION_WORDS


def mask_names(text: str, names: set[str]) -> str:
    """Returns the text with an X for each word, dotted path or compound that holds a library's or a module's name."""

    def masked(match: re.Match[str]) -> str:
        word = match[0].lower()
        parts = re.split(r"[._]+", word)
        return _MASKED if any(part in names for part in parts) or _LIBRARY.search(word) else match[0]

    return _WORD.sub(masked, text)


def _digest(text: str) -> bytes:
    """Returns what puts texts in an order that has nothing to do with where they come from."""
    return hashlib.sha256(text.encode()).digest()


def _write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """Writes JSON lines; the file is there whole or not at all, also with two runs at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return partial.replace(path)
