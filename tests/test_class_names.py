"""Tests of class names for prompts, in label order."""

import pytest

from experiments.data.class_names import (
    IMAGENET_80,
    SINGLE,
    prompts,
    readable_names,
)
from experiments.errors import UserError

ANIMALS = ("red_fox", "owl", "Bee")


def names(path, data="folder:x", own=ANIMALS):
    return readable_names(data, own, path)


def written(tmp_path, text):
    path = tmp_path / "names.txt"
    path.write_text(text)
    return path


def test_digits_are_spelt():
    assert readable_names("digits", ("7", "0", "3"), None) == ("seven", "zero", "three")


def test_names_of_the_data_serve_if_they_are_words():
    assert names(None) == ("red fox", "owl", "Bee")
    for own in (("n01440764", "n01443537"), ("17", "4")):
        with pytest.raises(UserError, match="prompts need class names.*--class-names"):
            names(None, own=own)


def test_a_file_names_the_classes_in_order(tmp_path):
    path = written(tmp_path, "a_fox\nan owl\na bee\n\n")
    assert names(path) == ("a fox", "an owl", "a bee")


def test_a_byte_order_mark_is_no_letter(tmp_path):
    path = written(tmp_path, "")
    path.write_text("\n".join(ANIMALS), encoding="utf-8-sig")
    assert names(path) == names(None)


def test_a_file_names_the_classes_by_what_the_data_call_them(tmp_path):
    path = written(tmp_path, "Bee\thoney bee\nred_fox\tfox\nowl\tbarn_owl\n")
    assert names(path) == ("fox", "barn owl", "honey bee")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fox\nowl\n", "each of the 3 classes, got 2"),
        ("", "each of the 3 classes, got 0"),
        ("owl\nred fox\nbee\n", "class 0 is 'red_fox' in the data but 'owl' in"),
        ("Bee\tb\nowl\to\n", "has no name for class 'red_fox'"),
        ("Bee\tb\nBee\tc\n", "line 2 .* names 'Bee' again"),
        ("Bee\tb\ncow\tc\n", "line 2 .* names 'cow', which is not a class"),
        ("Bee\tb\nowl\n", "line 2 .* is not class, tab, name"),
    ],
)
def test_a_file_that_does_not_fit_is_explained(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        names(written(tmp_path, text))


def test_a_plain_list_is_refused_where_numbers_are_in_the_order_of_words(tmp_path):
    own = tuple(sorted(str(c) for c in range(12)))
    plain = written(tmp_path, "".join(f"thing {c}\n" for c in range(12)))
    with pytest.raises(UserError, match="0, 1, 10, 11, and so on.*class, tab, name"):
        names(plain, own=own)
    named = written(tmp_path, "".join(f"{c}\tthing {c}\n" for c in range(12)))
    assert names(named, own=own)[2] == "thing 10"
    plain = written(tmp_path, "".join(f"thing {c}\n" for c in range(10)))
    assert names(plain, own=own[:2] + own[4:])[1] == "thing 1"


def test_a_file_that_cannot_be_read_is_explained(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        names(tmp_path / "missing.txt")
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="cannot be read"):
        names(path)


def test_the_eighty_templates_are_eighty():
    assert len(set(IMAGENET_80)) == 80
    assert all(template.count("{}") == 1 for template in IMAGENET_80)
    assert IMAGENET_80[0] == "a bad photo of a {}."
    assert IMAGENET_80[-1] == "a tattoo of the {}."
    assert SINGLE[0] in IMAGENET_80


def test_prompts_are_by_class_and_template():
    assert prompts(["fox", "owl"], ["a {}.", "the {}!"]) == [
        ["a fox.", "the fox!"],
        ["a owl.", "the owl!"],
    ]
