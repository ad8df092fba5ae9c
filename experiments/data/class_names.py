"""Readable class names, in the order of the labels, and text prompts for CLIP."""

import re
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import UserError

_SHIPPED = Path(__file__).parent / "names"
SINGLE = ("a photo of a {}.",)

# The 80 templates published with CLIP for ImageNet: github.com/openai/CLIP, notebook
# Prompt_Engineering_for_ImageNet, MIT licence.
IMAGENET_80 = tuple((_SHIPPED / "imagenet_templates.txt").read_text().splitlines())
_DIGITS = "zero one two three four five six seven eight nine".split()
# A number, or a WordNet noun identifier.
_NO_WORD = re.compile(r"n?\d+")


def readable_names(
    data: str, class_names: tuple[str, ...], path: Path | None
) -> tuple[str, ...]:
    """Returns the class names for prompts, with spaces instead of underscores.

    Args:
      data: ``data`` of the configuration, such as ``cifar100``.
      class_names: class names in the data set, in the order of the labels.
      path: path of a file with the names: either one name per line in that order, or
        lines of the data set's class name, a tab and the new name, in any order;
        ``None``: the data set's own names; digits are spelt out.

    Returns:
      One name per class.

    Raises:
      UserError: if the file cannot be read, does not name every class once, or has the
        data set's own names in another order; if it is a plain list and the classes
        are numbers sorted as text, 1, 10, 2; or if the data's own names are all numbers
        or WordNet identifiers.
    """
    if path is not None:
        names = _from_file(path, class_names)
    elif data == "digits":
        names = [_DIGITS[int(name)] for name in class_names]
    else:
        names = class_names
        if all(_NO_WORD.fullmatch(name) for name in names):
            raise UserError(
                f"prompts need class names in words, but the classes of --data {data} "
                f"are called {names[0]} and so on: pass a file of names with "
                "--class-names, or choose --head-init random."
            )
    return tuple(name.replace("_", " ") for name in names)


def _from_file(path: Path, class_names: tuple[str, ...]) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--class-names {path} cannot be read: {error}.") from None
    if any("\t" in line for line in lines):
        return _by_class(path, lines, class_names)
    names = [line.strip() for line in lines]
    if len(names) != len(class_names) or not all(names):
        raise UserError(
            f"--class-names {path} must have one name per line for each of the "
            f"{len(class_names)} classes, got {sum(map(bool, names))}."
        )
    if _count_in_another_order(class_names):
        raise UserError(
            f"--class-names {path} has one name per line, but the classes are numbers "
            f"sorted as text ({', '.join(class_names[:4])}, and so on): write lines of "
            "class, tab, name."
        )
    plain, own = ([_plain(name) for name in of] for of in (names, class_names))
    if sorted(plain) == sorted(own):
        _check_order(names, class_names, f"--class-names {path}")
    return names


def _count_in_another_order(class_names):
    """Returns whether the classes are numbers that are not in numerical order."""
    if not all(name.isdecimal() for name in class_names):
        return False
    numbers = [int(name) for name in class_names]
    return numbers != sorted(numbers)


def _by_class(path, lines, class_names):
    names = {}
    for number, line in enumerate(lines, start=1):
        of_class, tab, name = (part.strip() for part in line.partition("\t"))
        if not (of_class and name):
            problem = "is not class, tab, name"
        elif of_class not in class_names:
            problem = f"names {of_class!r}, which is not a class of the data"
        elif of_class in names:
            problem = f"names {of_class!r} again"
        else:
            names[of_class] = name
            continue
        raise UserError(f"line {number} of --class-names {path} {problem}.")
    for of_class in class_names:
        if of_class not in names:
            raise UserError(f"--class-names {path} has no name for class {of_class!r}.")
    return [names[of_class] for of_class in class_names]


def _check_order(names, class_names, where):
    for label, (name, own) in enumerate(zip(names, class_names, strict=True)):
        if _plain(name) != _plain(own):
            raise UserError(
                f"class {label} is {own!r} in the data but {name!r} in {where}: both "
                "must have the same order, or classes would get wrong prompts."
            )


def _plain(name):
    return name.replace("_", " ").strip().lower()


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Fills every template with each name; returns one list of prompts per name."""
    return [[template.format(name) for template in templates] for name in names]
