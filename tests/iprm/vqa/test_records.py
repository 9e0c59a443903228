"""JSON files read object by object: what is accepted, what is told of a file that is not, and how long it takes."""

import gzip
import json

import pytest

from iprm.vqa.data import records as stream
from iprm.vqa.data.examples import DataError
from iprm.vqa.data.records import Item, document, elements, entries, records

CONTENT = {
    "info": {"license": 'a "quoted \\ ] word', "nested": [[1, {"a": "}"}], []]},
    "version": 12345.5e-3,
    "none": None,
    "questions": [{"text": "é€😀 \\", "n": [i, -1.5e-7, True, None]} for i in range(9)],
}


def contents(items):
    return [item.content for item in items]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.json"


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_streams_across_chunks(path, monkeypatch, chunk, indent, ascii_only):
    monkeypatch.setattr(stream, "CHUNK", chunk)
    path.write_text(json.dumps(CONTENT, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert contents(records(path, "questions", "question")) == CONTENT["questions"]
    path.write_text(json.dumps(CONTENT["questions"], indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert contents(elements(path, "question")) == CONTENT["questions"]
    path.write_text(json.dumps({"a": CONTENT, "b": {}}, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert [(key, item.content) for key, item in entries(path, "video")] == [("a", CONTENT), ("b", {})]


def test_byte_order_mark(path):
    path.write_text(json.dumps(CONTENT), encoding="utf-8-sig")
    assert contents(records(path, "questions", "question")) == CONTENT["questions"]


def test_nothing_in_it(path):
    path.write_text('{"questions": [ ]}')
    assert list(records(path, "questions", "question")) == []
    path.write_text("{ }")
    assert list(entries(path, "video")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected {, got the end of the file"),
        ("[]", r"expected {, got \["),
        ("{", "expected a key in quotes, got the end of the file"),
        ("{'questions': []}", "expected a key in quotes, got '"),
        ('{"info": {}}', "expected a key 'questions'"),
        ('{"info": {"a": [}', "expected the end of an array or an object, got the end of the file"),
        ('{"questions": {}}', r"expected \[, got {"),
        ('{"questions": [1]}', "question 0: expected an object, got int"),
        ('{"questions": [{}, []]}', "question 1: expected an object, got list"),
        ('{"questions": [{"a": 1}', r"expected , or \], got the end of the file"),
        ('{"questions": [{"a": 1},', "not JSON"),
        ('{"questions": [{"a": ', "not JSON"),
        ('{"questions": [{"a": "b', "not JSON: Unterminated string"),
        ('{"questions": [{a: 1}]}', "not JSON: Expecting property name"),
        ('{"questions": [{"a": ' + "9" * 5000 + "}]}", "not JSON that can be read"),
        ('{"questions": [{"a": ' + "[" * 100_000, "not JSON that can be read"),
    ],
)
def test_wrong_json(path, text, message):
    path.write_text(text)
    with pytest.raises(DataError, match=f"x.json: {message}") as raised:
        list(records(path, "questions", "question"))
    assert "\n" not in str(raised.value)


def test_other_files(tmp_path, path):
    path.write_bytes(gzip.compress(b"{}"))
    with pytest.raises(DataError, match=r"x.json: expected UTF-8 text, got byte 0x8b"):
        document(path, "video")
    with pytest.raises(DataError, match="expected a file that can be read, got: Is a directory"):
        document(tmp_path, "video")
    with pytest.raises(DataError, match="expected a file that can be read, got: No such file"):
        document(tmp_path / "none.json", "video")


def test_what_is_wrong_ends_the_reading(path, monkeypatch):
    """A mistake is told where it is met, not at the end of the file."""
    monkeypatch.setattr(stream, "CHUNK", 100)
    path.write_text('{"questions": [{"a" 1}, ' + " " * 10_000 + '{"b": 2}]}')
    read = []
    monkeypatch.setattr(stream._Reader, "_more", lambda self, more=stream._Reader._more: read.append(1) or more(self))
    with pytest.raises(DataError, match="not JSON: Expecting ':'"):
        list(records(path, "questions", "question"))
    assert len(read) == 1


@pytest.mark.parametrize("shape", ["skipped", "record"])
def test_large_values_take_linear_time(path, monkeypatch, shape):
    """However many chunks a value takes, what is scanned in all grows with the bytes."""
    monkeypatch.setattr(stream, "CHUNK", 100)
    large = json.dumps({"a": ["b" * 50] * 1000})
    path.write_text(
        f'{{"info": {large}, "questions": [{{}}]}}' if shape == "skipped" else f'{{"questions": [{large}]}}'
    )
    scanned = []

    def counted(self, more=stream._Reader._more):
        there_is_more = more(self)
        scanned.append(len(self.text))
        return there_is_more

    monkeypatch.setattr(stream._Reader, "_more", counted)
    assert len(list(records(path, "questions", "question"))) == 1
    assert sum(scanned) < 4 * len(large)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda item: item.get("b"), r"expected the key 'b', got \['text', 'list', 'far'\]"),
        (lambda item: item.get("text", int), "text: expected an integer, got 'red'"),
        (lambda item: item.array("list", str), "list: 1: expected text, got 2"),
        (lambda item: item.items("list", "choice"), "list: 0: expected an object, got 'a'"),
        (lambda item: item.item("text"), "text: expected an object, got 'red'"),
        (lambda item: item.number("far"), "far: expected a finite number, got inf"),
        (lambda item: item.numbers("list", 2), r"list: expected 2 finite numbers, got \['a', 2\]"),
    ],
)
def test_items_say_what_they_lack(path, read, message):
    item = Item(path, "question 3", {"text": "red", "list": ["a", 2], "far": float("inf")})
    with pytest.raises(DataError, match=f"x.json: question 3: {message}"):
        read(item)
