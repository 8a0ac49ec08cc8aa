from __future__ import annotations

import concurrent.futures
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bertjax.data import installed_docs
from bertjax.data.corpus import open_corpus
from bertjax.data.installed_docs import Docstring, collect, mask_names, module_names, write_classification, write_corpus
from bertjax.errors import UserError

LONG = (
    "The {0} leaves the harbour early in the morning and sails north of the island. Its crew of {0} hands keeps watch"
    " until the evening. When the {0} returns, everybody on the pier waves."
)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_finds_every_docstring_by_its_name(tmp_path: Path) -> None:
    source = f'''"""{LONG.format("module")}"""
class Boat:
    """{LONG.format("class")}"""
    def sail(self):
        """{LONG.format("method")}"""
if True:
    async def row():
        """{LONG.format("function")}"""
else:
    def row():
        """Too short."""
add_newdoc("sea.compiled", "dive", """{LONG.format("call")}""")
add_newdoc("sea.compiled", "Ship", ("float", """{LONG.format("tuple")}"""))
print("""{LONG.format("ordinary string")}""")
'''
    write(tmp_path / "sea" / "boats" / "__init__.py", source)
    found = list(collect({"sea": [tmp_path / "sea"]}))
    assert [(d.name.removeprefix("sea.boats").removeprefix("."), d.paragraphs[0].split()[1]) for d in found] == [
        ("", "module"),
        ("Boat", "class"),
        ("Boat.sail", "method"),
        ("row", "function"),
        ("sea.compiled.dive", "call"),
        ("Ship.float", "tuple"),
    ]
    assert found[0] == Docstring((LONG.format("module"),), "sea", "sea.boats")


def test_leaves_out_tests_copies_and_what_does_not_parse(tmp_path: Path) -> None:
    for name in ("tests/test_a.py", "site-packages/b.py", "c_test.py", "d.txt"):
        write(tmp_path / name, f'"""{LONG.format(name)}"""')
    write(tmp_path / "template.py", f'"""{LONG.format("template")}"""\nprint {{{{ name }}}}')
    write(tmp_path / "escape.py", f'"""{LONG.format("escape")} \\d"""')  # warns where a docstring is not raw
    write(tmp_path / "z.py", f'"""{LONG.format("escape")} \\d"""')
    assert [d.name for d in collect({"python": [tmp_path]})] == ["escape"]


def test_half_of_a_surrogate_pair_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.py", f'"""\\ud800{LONG.format("boat")}"""')
    assert rows(write_corpus(tmp_path / "corpus.jsonl", {"python": [tmp_path]}))[0]["paragraphs"] == [
        LONG.format("boat")
    ]


def test_reads_the_chapters_of_the_language_reference(tmp_path: Path) -> None:
    chapters = {"with": LONG.format("second"), "assert": LONG.format("first"), "short": "Nothing."}
    write(tmp_path / "pydoc_data" / "topics.py", f'topics = {chapters!r}\n"""{"x" * 150}"""')
    assert [d.name for d in collect({"python": [tmp_path]})] == ["pydoc_data.topics.assert", "pydoc_data.topics.with"]


def test_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = write(tmp_path / "sea" / "__init__.py", f'"""{LONG.format("sea")}"""\nraise RuntimeError').parent
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(installed_docs, "DISTRIBUTIONS", {"sea": "sea", "not_installed": "not-installed"})
    roots = installed_docs.installed_roots()
    assert list(roots) == ["python", "sea"]
    assert roots["sea"] == [package]
    assert "sea" not in sys.modules


def test_near_duplicates_share_a_group(tmp_path: Path) -> None:
    first = LONG.format("boat") + " " + LONG.format("raft")
    write(tmp_path / "sea" / "a.py", f'"""{first}"""')
    write(tmp_path / "lake" / "a.py", f'"""{first.replace("island", "reef", 1)}"""')
    write(tmp_path / "lake" / "b.py", f'"""{LONG.replace("{0}", "big white gull")}"""')
    corpus = write_corpus(tmp_path / "out" / "corpus.jsonl", {"sea": [tmp_path / "sea"], "lake": [tmp_path / "lake"]})
    assert [(row["group"], row["library"]) for row in rows(corpus)] == [
        ("sea.a", "sea"),
        ("sea.a", "lake"),
        ("lake.b", "lake"),
    ]
    assert [path.name for path in corpus.parent.iterdir()] == ["corpus.jsonl"]


def test_no_documentation_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no documentation"):
        write_corpus(tmp_path / "corpus.jsonl", {"python": [tmp_path]})


def test_masks_the_names_of_libraries_and_modules(tmp_path: Path) -> None:
    write(tmp_path / "harbour" / "_tide.py", "")
    names = module_names({"sea": [tmp_path]})
    assert mask_names("At sea, see Sea.boat, sea_level, np.sum, my.harbour.x or _tide; this is jaxlib.", names) == (
        "At X, see X, X, X, X or X; this is X."
    )
    assert mask_names("A seal at none other.", names) == "A seal at none other."


def corpus_of_two(tmp_path: Path, documents: int = 20) -> Path:
    lines = [
        {"paragraphs": [LONG.format(f"{library}{i}")], "group": f"{library}{i}", "library": library}
        for library, count in (("sea", documents), ("lake", documents + 10), ("pond", 3))
        for i in range(count)
    ]
    lines += [{"paragraphs": [LONG.format("both")], "group": "both", "library": library} for library in ("sea", "lake")]
    lines += [{"paragraphs": [LONG.format("again")], "group": "sea0", "library": "sea"}]
    return write(tmp_path / "corpus.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def test_classes_are_balanced_and_splits_disjoint(tmp_path: Path) -> None:
    paths = write_classification(corpus_of_two(tmp_path), tmp_path / "out", roots={}, fewest=20)
    splits = {name: rows(path) for name, path in paths.items()}
    for split in splits.values():
        counts = Counter(row["label"] for row in split)
        assert counts["sea"] == counts["lake"] >= 1
        assert all(row["label"] in row["text"] for row in split)
    sizes = [len(split) for split in splits.values()]
    assert sizes[0] > 2 * sizes[1]
    texts = [row["text"] for split in splits.values() for row in split]
    assert len(set(texts)) == len(texts) > 30
    assert not any("both" in text or "again" in text or "pond" in text for text in texts)
    documents = [{w for row in split for w in row["text"].split() if w[-1].isdigit()} for split in splits.values()]
    assert sum(map(len, documents)) == len(set.union(*documents)), "a document is in two splits"


def test_a_sentence_of_several_documents_is_in_no_split(tmp_path: Path) -> None:
    same = "Nobody has ever seen the captain without his yellow hat."
    lines = [
        {"paragraphs": [LONG.format(f"{library}{i}"), same], "group": f"{library}{i}", "library": library}
        for library in ("sea", "lake")
        for i in range(20)
    ]
    corpus = write(tmp_path / "corpus.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    paths = write_classification(corpus, tmp_path / "out", roots={}, fewest=20)
    assert same not in {row["text"] for path in paths.values() for row in rows(path)}


def test_too_few_sentences_to_classify_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 libraries have 70 sentences"):
        write_classification(corpus_of_two(tmp_path), tmp_path, roots={}, fewest=70)


def test_another_version_is_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path))
    before = installed_docs.cache_directory()
    assert before.parent == tmp_path
    assert before == installed_docs.cache_directory()
    monkeypatch.setattr("platform.python_version", lambda: "3.99")
    assert installed_docs.cache_directory() != before


def test_several_first_starts_at_once_make_one_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered = [f'def f{n}():\n    """{LONG.format(f"boat of {n} masts")}"""\n' for n in range(60)]
    write(tmp_path / "sea" / "boats.py", "".join(numbered))
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(installed_docs, "installed_roots", lambda: {"sea": [tmp_path / "sea"]})
    monkeypatch.setattr(installed_docs, "groups", lambda texts: list(range(len(texts))))
    monkeypatch.setattr(installed_docs, "VOCAB_SIZE", 100)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(installed_docs.prepared, [32, 32, 48])
    assert others == [first, first.with_name("prepared-48")]
    assert len(open_corpus(first).train) > 30
    assert sorted(path.name for path in first.parent.iterdir()) == ["corpus.jsonl", "prepared-32", "prepared-48"]
    with monkeypatch.context() as patched:
        patched.setattr(installed_docs, "write_corpus", None)
        installed_docs.prepared(64)


def test_the_real_installation(tmp_path: Path) -> None:
    roots = installed_docs.installed_roots()
    assert {"python", "numpy", "scipy", "jax", "flax", "optax", "orbax", "tensorflow_datasets"} <= set(roots)
    chosen = {library: roots[library] for library in ("numpy", "optax", "flax")}  # all of them take too long for a test
    corpus = write_corpus(tmp_path / "corpus.jsonl", chosen)
    documents = rows(corpus)
    counts = Counter(row["library"] for row in documents)
    assert counts["numpy"] > 700
    assert counts["optax"] > 150
    assert sum(len(" ".join(row["paragraphs"])) for row in documents) > 800_000
    largest = Counter(row["group"] for row in documents).most_common(1)[0][1]
    assert largest < 0.05 * len(documents)
    text = " ".join(paragraph for row in documents for paragraph in row["paragraphs"])
    assert ">>>" not in text
    assert text.count("`") < 1e-4 * len(text)
    paths = write_classification(corpus, tmp_path, roots=chosen, fewest=800)
    words = " ".join(row["text"] for path in paths.values() for row in rows(path)).lower().split()
    assert not {"numpy", "np", "jax", "jnp", "flax", "nnx", "linen", "optax", "linalg", "polynomial"} & set(words)
