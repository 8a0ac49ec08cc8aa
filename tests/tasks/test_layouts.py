"""Each page of configs/finetune reads its files as they are distributed. The texts are made up; | stands for a tab."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import finetune
from bertjax.data.tokenizer import Tokenizer
from bertjax.tasks import answers, choices, tagging
from tests.test_configs import CONFIGS, load


class Layout(NamedTuple):
    """A training file and what is read from it; a test file likewise."""

    page: str
    file: str
    text: str
    expected: list[tuple[Any, ...]]
    test: str = ""
    predicted: list[tuple[Any, ...]] = []  # noqa: RUF012 - nobody appends to it
    changes: dict[str, str] = {}  # noqa: RUF012


def tabs(*rows: str, end: str = "\n") -> str:
    return "".join(row.replace("|", "\t") + end for row in rows)


def squad(answered: bool) -> str:
    context, found = "Its lake, Lake Ill, is deep.", [{"text": "Lake Ill", "answer_start": 10}]
    qas = [
        {"id": "a", "question": "Which lake?", "answers": found, "is_impossible": False},
        {"id": "b", "question": "Which river?", "answers": found if answered else [], "is_impossible": not answered},
    ]
    return json.dumps({"version": "v", "data": [{"title": "Ill", "paragraphs": [{"context": context, "qas": qas}]}]})


LAKE = ("Which lake?", "Lake Ill")
MNLI = tabs(
    "index|promptID|pairID|genre|sentence1_binary_parse|sentence2_binary_parse|sentence1_parse|sentence2_parse"
    "|sentence1|sentence2|label1|gold_label",
    '0|7|7e|fiction|( a )|( b )|(R a)|(R b)|It "rained.|It was wet.|entailment|entailment',
    "1|8|8n|letters|( c )|( d )|(R c)|(R d)|He left.|He ran, then.|neutral|neutral",
)
MNLI_READ = [('It "rained.', "It was wet.", "entailment"), ("He left.", "He ran, then.", "neutral")]
MNLI_NAMES = "index|promptID|pairID|genre|sentence1_binary_parse|sentence2_binary_parse|sentence1_parse|sentence2_parse"
MRPC_ROWS = ('1|71|72|"No", he said.|He said "no.', "0|73|74|It rose 5 %.|It fell.")
MRPC_READ = [('"No", he said.', 'He said "no.', "1"), ("It rose 5 %.", "It fell.", "0")]
PAIRS = ("0|It rains.|It is wet.|", "1|He said \"no.|He didn't.|")
PAIRS_READ = [("It rains.", "It is wet."), ('He said "no.', "He didn't.")]


def numbered_pairs(page: str, columns: str, *labels: str) -> Layout:
    """Returns GLUE's layout of QNLI, RTE and WNLI."""
    return Layout(
        page,
        "train.tsv",
        tabs(f"index|{columns}|label", *map("".join, zip(PAIRS, labels, strict=True))),
        [(*read, label) for read, label in zip(PAIRS_READ, labels, strict=True)],
        tabs(f"index|{columns}", PAIRS[0][:-1]),
        [(*PAIRS_READ[0], None)],
    )


LAYOUTS = [
    Layout(
        "cola",
        "train.tsv",
        tabs("gj04|1||The boat sank.", 'gj04|0|*|The "boat sink.'),
        [("The boat sank.", None, "1"), ('The "boat sink.', None, "0")],
        tabs("index|sentence", "0|It rains."),
        [("It rains.", None, None)],
    ),
    Layout(
        "sst2",
        "train.tsv",
        tabs("sentence|label", "a fine film |1", 'so " dull |0'),
        [("a fine film ", None, "1"), ('so " dull ', None, "0")],
        tabs("index|sentence", "0|it moves ."),
        [("it moves .", None, None)],
    ),
    Layout(
        "mrpc",
        "train.tsv",
        tabs("\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String", *MRPC_ROWS),
        MRPC_READ,
        tabs("index|#1 ID|#2 ID|#1 String|#2 String", "0|75|76|It rose.|It is up."),
        [("It rose.", "It is up.", None)],
    ),
    Layout(
        "mrpc",
        "msr_paraphrase_train.txt",
        tabs("\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String", *MRPC_ROWS, end="\r\n"),
        MRPC_READ,
    ),
    Layout(
        "qqp",
        "train.tsv",
        tabs(
            "id|qid1|qid2|question1|question2|is_duplicate",
            '0|1|2|What is "it?|What is it?|1',
            "1|3|4|Where|",
            "2|5|6|Who?|When, then?|0",
        ),
        [('What is "it?', "What is it?", "1"), ("Who?", "When, then?", "0")],
        tabs("id|question1|question2", "0|Who?|Where?"),
        [("Who?", "Where?", None)],
    ),
    Layout(
        "stsb",
        "train.tsv",
        tabs(
            "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2|score",
            '0|news|images|2012|1|none|none|A "plane is up.|A plane, up.|5.000',
            "1|news|images|2012|4|none|none|A man plays.|A man eats.|0.600",
        ),
        [('A "plane is up.', "A plane, up.", "5.000"), ("A man plays.", "A man eats.", "0.600")],
        tabs(
            "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2",
            "0|news|images|2012|9|none|none|A boat.|A ship.",
        ),
        [("A boat.", "A ship.", None)],
    ),
    Layout(
        "stsb",
        "sts-train.csv",
        tabs(
            'captions|MSRvid|2012test|0001|5.000|A "plane is up.|A plane is up.',
            "news|images|2014|0002|0.600|A man, playing.|A man eats.|http://a.example/1|http://a.example/2",
        ),
        [('A "plane is up.', "A plane is up.", "5.000"), ("A man, playing.", "A man eats.", "0.600")],
        changes={"text": "5", "second": "6", "label": "4"},
    ),
    Layout(
        "mnli",
        "train.tsv",
        MNLI,
        MNLI_READ,
        tabs(f"{MNLI_NAMES}|sentence1|sentence2", "0|9|9|fiction|( a )|( b )|(R a)|(R b)|She sang.|She did."),
        [("She sang.", "She did.", None)],
    ),
    Layout(
        "mnli",
        "dev_matched.tsv",
        tabs(
            f"{MNLI_NAMES}|sentence1|sentence2|label1|label2|label3|label4|label5|gold_label",
            '0|7|7e|fiction|( a )|( b )|(R a)|(R b)|It "rained.|It was wet.|neutral|entailment|a|b|c|entailment',
            "1|8|8n|letters|( c )|( d )|(R c)|(R d)|He left.|He ran, then.|neutral|neutral|a|b|c|neutral",
        ),
        MNLI_READ,
    ),
    Layout(
        "ax",
        "train.tsv",
        MNLI,
        MNLI_READ,
        tabs("index|sentence1|sentence2", "0|The cat sat.|The cat did not sit."),
        [("The cat sat.", "The cat did not sit.", None)],
    ),
    numbered_pairs("qnli", "question|sentence", "entailment", "not_entailment"),
    numbered_pairs("rte", "sentence1|sentence2", "entailment", "not_entailment"),
    numbered_pairs("wnli", "sentence1|sentence2", "1", "0"),
    Layout(
        "swag",
        "train.csv",
        ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
        '0,v1,5,A man. He,A man.,He,gold,"eats, then ""sings"".",runs.,sits.,falls.,0\n'
        "1,v2,6,A boat. It,A boat.,It,gen,sinks.,flies.,eats.,sits.,3\n",
        [
            ("A man.", 'He eats, then "sings".', "He runs.", "He sits.", "He falls.", "0"),
            ("A boat.", "It sinks.", "It flies.", "It eats.", "It sits.", "3"),
        ],
        ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3\n"
        "0,v3,7,A cat. It,A cat.,It,gen,a.,b.,c.,d.\n",
        [("A cat.", "It a.", "It b.", "It c.", "It d.", None)],
    ),
    Layout(
        "conll2003",
        "eng.train",
        "-DOCSTART- -X- O O\n\nAnna NNP I-NP I-PER\nsings VBZ I-VP O\n\nAt IN I-PP O\nIll NNP I-NP I-LOC\n",
        [("Anna sings", "B-PER O"), ("At Ill", "O B-LOC")],
    ),
    Layout(
        "wnut17",
        "wnut17train.conll",
        tabs("@anna|O", '"|O', "|", "Lake|B-location", "Ill|I-location", "|"),
        [('@anna "', "O O"), ("Lake Ill", "B-location I-location")],
    ),
    Layout(
        "wikiann",
        "train",
        tabs("en:Lake|B-LOC", "en:Ill|I-LOC", "", "en::|O", "en:Anna|B-PER"),
        [("Lake Ill", "B-LOC I-LOC"), (": Anna", "O B-PER")],
    ),
    Layout("squad", "train-v1.1.json", squad(answered=True), [LAKE, ("Which river?", "Lake Ill")]),
    Layout("squad2", "train-v2.0.json", squad(answered=False), [LAKE, ("Which river?",)]),
]


def shown(example: Any) -> tuple[Any, ...]:
    """Returns texts and labels."""
    if isinstance(example, tagging.Reading):
        return " ".join(example.sentence.tokens), " ".join(example.sentence.tags or ())
    if isinstance(example, answers.Reading):
        return example.question.question, *(answer.text for answer in example.question.answers)
    if isinstance(example, choices.Example):
        return example.text, *example.choices, example.label
    return example.text, example.second, example.label


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.page}-{layout.file}")
def test_a_page_reads_its_files_as_they_are_distributed(layout: Layout, tokenizer: Tokenizer, tmp_path: Path) -> None:
    c = load(CONFIGS / "finetune" / f"{layout.page}.py").get_config()
    path, test = tmp_path / layout.file, tmp_path / f"test{Path(layout.file).suffix}"
    path.write_bytes(layout.text.encode())
    test.write_bytes(layout.test.encode())
    files = {"train": str(path), "validation": str(path), "test": str(test) if layout.test else None}
    task = finetune.TASKS[c.task](dataclasses.replace(c.data, **files, **layout.changes), tokenizer, 0)
    assert [shown(example) for example in task.parts["train"].examples] == layout.expected
    if layout.test:
        assert [shown(example) for example in task.parts["test"].examples] == layout.predicted


def test_every_page_has_a_layout() -> None:
    pages = {path.stem for path in (CONFIGS / "finetune").glob("*.py")}
    assert {layout.page for layout in LAYOUTS} == pages - {"quickstart"}  # whose files are made on the machine
