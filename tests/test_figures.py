"""Tests of the figures: content, few and many classes, unusual inputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("matplotlib", reason="needs focal_sam_jax[experiments]")

from matplotlib.font_manager import findfont, get_font
from matplotlib.image import imread
from matplotlib.text import Text

from experiments.figures import classes
from experiments.figures import run as figures
from experiments.figures import runs as group_figures
from experiments.figures.style import frequency_order, moving_average, percent
from experiments.metrics import shot_of_class, shot_thresholds

SIZES = (2, 10, 30, 300)


@pytest.fixture
def drawn(monkeypatch):
    """Collects the saved figures, in order."""
    kept = []
    for module in (classes, figures, group_figures):
        real = module.save

        def keep(figure, path, real=real):
            real(figure, path)
            kept.append(figure)

        monkeypatch.setattr(module, "save", keep)
    return kept


def results(size, seed=0):
    """Training counts, confusion matrix, accuracies, names and groups of a test set."""
    rng = np.random.default_rng(seed)
    counts = 10 + np.floor(1270 * 50 ** (-np.arange(size) / (size - 1))).astype(int)
    counts += size - np.arange(size)
    confusion = rng.integers(0, 3, (size, size)) + 20 * np.eye(size, dtype=int)
    accuracy = list(np.diagonal(confusion) / confusion.sum(axis=1))
    groups = shot_of_class(counts, shot_thresholds("imagenet_lt", 256, "natural"))
    return counts, confusion, accuracy, tuple(f"name{c}" for c in range(size)), groups


def permuted(size, seed=1):
    """The same results with the classes in another order."""
    counts, confusion, accuracy, names, groups = results(size)
    order = np.random.default_rng(seed).permutation(size)
    return (
        counts[order],
        confusion[np.ix_(order, order)],
        [accuracy[c] for c in order],
        tuple(names[c] for c in order),
        groups[order],
    )


def class_figures(folder, counts, confusion, accuracy, names, groups):
    """Both figures of classes, as pixels."""
    folder.mkdir()
    classes_path, matrix = folder / "classes.png", folder / "matrix.png"
    of_one_run(classes_path, accuracy, counts, names, groups)
    figures.confusion_matrix(matrix, confusion, counts, names, groups, "title")
    return imread(classes_path), imread(matrix)


def of_one_run(path, accuracy, counts, names, groups, title="title"):
    values = {"sgd": np.array(accuracy, dtype=float)}
    classes.per_class_accuracy(path, values, {}, counts, names, groups, title)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_classes_come_by_frequency_whatever_their_order(tmp_path, size):
    one = class_figures(tmp_path / "one", *results(size))
    two = class_figures(tmp_path / "two", *permuted(size))
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_other_answers_make_other_figures(tmp_path):
    one = class_figures(tmp_path / "one", *results(10))
    counts, _, _, names, groups = results(10)
    _, confusion, accuracy, _, _ = results(10, seed=5)
    two = class_figures(tmp_path / "two", counts, confusion, accuracy, names, groups)
    for ours, theirs in zip(one, two, strict=True):
        assert (ours != theirs).any()


def test_names_stand_under_their_values(drawn, tmp_path):
    counts, confusion, accuracy, names, groups = permuted(10)
    class_figures(tmp_path / "figures", counts, confusion, accuracy, names, groups)
    of_classes, matrix = drawn
    by_frequency = [f"name{c}" for c in range(10)]
    for axes in (of_classes.axes[1], matrix.axes[0]):
        found = [label.get_text() for label in axes.get_xticklabels()]
        assert found == by_frequency
    (line,) = of_classes.axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), np.arange(10))
    np.testing.assert_allclose(line.get_ydata(), 100 * np.array(results(10)[2]))


def test_the_numbers_of_a_small_confusion_matrix_are_percent_of_rows(drawn, tmp_path):
    counts, _, _, names, groups = results(3)
    confusion = np.array([[9, 1, 0], [5, 5, 0], [0, 0, 0]])
    path = tmp_path / "matrix.png"
    figures.confusion_matrix(path, confusion, counts, names, groups, "title")
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    # A class without examples has no numbers.
    assert texts[:6] == ["90", "10", "0", "50", "50", "0"]
    assert texts[6:] == [shot for shot in ("many", "medium", "few") if shot in groups]


def test_blocks_of_a_large_confusion_matrix_keep_every_example(drawn, tmp_path):
    size = 250
    counts, _, _, names, groups = results(size)
    confusion = np.zeros((size, size), int)
    # All examples of the rarest class are predicted as the most frequent.
    confusion[np.arange(size - 1), np.arange(size - 1)] = 4
    confusion[-1, 0] = 4
    path = tmp_path / "matrix.png"
    figures.confusion_matrix(path, confusion, counts, names, groups, "title")
    (mesh,) = (c for c in drawn[0].axes[0].collections if c.get_array() is not None)
    share = np.asarray(mesh.get_array())
    # Blocks of three classes, and a last one of one.
    assert share.shape == (84, 84)
    np.testing.assert_allclose(share.sum(axis=1), 100)
    np.testing.assert_allclose(np.diagonal(share), [100] * 83 + [0])
    assert share[-1, 0] == 100


@pytest.mark.parametrize("size", [10, 300, 3000])
def test_classes_without_test_examples_leave_a_gap(drawn, tmp_path, size):
    counts, _, accuracy, names, groups = results(size) if size < 3000 else large(size)
    accuracy[::2] = [None] * len(accuracy[::2])
    of_one_run(tmp_path / "classes.png", accuracy, counts, names, groups)
    words = [text.get_text() for text in drawn[0].axes[0].texts]
    assert words.count("not tested") == (5 if size == 10 else 0)


def large(size):
    """Results for so many classes that there is no confusion matrix."""
    counts = np.floor(1000 * 500 ** (-np.arange(size) / (size - 1))).astype(int)
    groups = shot_of_class(counts, shot_thresholds("inaturalist18", 500, "natural"))
    return counts, None, list(np.linspace(1, 0, size)), tuple(map(str, counts)), groups


def labels(figure):
    """Returns the names of the classes in the figure of their accuracies."""
    return [text.get_text() for text in figure.axes[1].get_xticklabels()]


def test_names_in_any_script_are_drawn_or_numbered(tmp_path, drawn):
    counts, confusion, accuracy, names, groups = results(5)
    usual, other = (
        set(get_font(findfont(name)).get_charmap())
        for name in ("DejaVu Sans", "STIXGeneral")
    )
    there = chr(min(other - usual))
    nowhere = "\U0007fffe"  # not a letter of any script, so no font has it
    names = (there, f"cat {nowhere}", "Größe", "a b", names[4])
    path, matrix = tmp_path / "classes.png", tmp_path / "matrix.png"
    of_one_run(path, accuracy, counts, names, groups, names[1])
    figures.confusion_matrix(matrix, confusion, counts, names, groups, names[1])
    assert labels(drawn[0]) == [there, "class 1", "Größe", "a b", "name4"]
    for figure in drawn:
        assert "numbers replace names" in figure.get_supxlabel()


def test_dollar_signs_in_names_are_no_formula(tmp_path, drawn):
    counts, confusion, accuracy, _, groups = results(4)
    names = ("$a", r"\frac{$b$", "$$", "50 $ or 60 $")
    path, matrix = tmp_path / "classes.png", tmp_path / "matrix.png"
    title = r"folder:/data/$\x$"
    of_one_run(path, accuracy, counts, names, groups, title)
    figures.confusion_matrix(matrix, confusion, counts, names, groups, title)
    for figure in drawn:
        texts = [text for text in figure.findobj(Text) if "$" in text.get_text()]
        assert len(texts) > len(names)
        assert not any(text.get_parse_math() for text in texts)


def curve_rows(*, validation=True, broken=()):
    rows = []
    for epoch in range(1, 7):
        loss = None if epoch in broken else 1 / epoch
        accuracy = None if epoch in broken else 1 - 1 / (epoch + 1)
        train = {"loss": loss, "train_accuracy": accuracy}
        rows.append({"split": "train", "epoch": epoch, **train})
        if validation and epoch % 2 == 0:
            few = {"accuracy": epoch / 10, "accuracy_few": None}
            rows.append({"split": "validation", "epoch": epoch, **few})
    return rows


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def test_training_curves(drawn, tmp_path):
    figures.training_curves(tmp_path / "curves.png", curve_rows(), "title")
    loss, accuracy = drawn[0].axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), 1 / np.arange(1, 7))
    lines = lines_of(accuracy)
    # Few-shot accuracy was None throughout.
    assert set(lines) == {"training, augmented", "validation"}
    np.testing.assert_allclose(lines["validation"].get_ydata(), [20, 40, 60])


def test_training_curves_without_a_validation_split(drawn, tmp_path):
    rows = curve_rows(validation=False)
    figures.training_curves(tmp_path / "curves.png", rows, "title")
    assert set(lines_of(drawn[0].axes[1])) == {"training, augmented"}


def test_an_epoch_without_a_good_step_leaves_a_gap(drawn, tmp_path):
    rows = curve_rows(broken=(2,))
    figures.training_curves(tmp_path / "curves.png", rows, "title")
    assert np.isnan(drawn[0].axes[0].lines[0].get_ydata()[1])
    many = {"sgd": [rows, curve_rows()]}
    group_figures.learning_curves(tmp_path / "groups.png", many, "title")
    assert list(lines_of(drawn[1].axes[0])["sgd"].get_xdata()) == [1, 3, 4, 5, 6]


def test_training_curves_of_one_epoch(tmp_path):
    path = tmp_path / "curves.png"
    figures.training_curves(path, curve_rows()[:1], "title")
    assert path.exists()


def test_learning_curves_are_means_over_seeds(drawn, tmp_path):
    other = [
        {**row, "loss": 3 * row["loss"]} if row["split"] == "train" else row
        for row in curve_rows()
    ]
    rows = {"sgd": [curve_rows(), other], "sam": [curve_rows()]}
    group_figures.learning_curves(tmp_path / "curves.png", rows, "title")
    loss, accuracy = drawn[0].axes
    sgd = lines_of(loss)["sgd"].get_ydata()
    np.testing.assert_allclose(sgd, 2 / np.arange(1, 7))
    np.testing.assert_allclose(lines_of(accuracy)["sam"].get_ydata(), [20, 40, 60])
    assert len(loss.collections) == 1


def test_learning_curves_without_a_validation_split(drawn, tmp_path):
    rows = {"sgd": [curve_rows(validation=False)]}
    group_figures.learning_curves(tmp_path / "curves.png", rows, "title")
    assert len(drawn[0].axes) == 1


@pytest.mark.parametrize("size", SIZES)
def test_accuracy_of_many_groups_by_class(drawn, tmp_path, size):
    counts, _, accuracy, _, groups = results(size)
    values = {f"method {i}": np.array(accuracy) / (1 + i) for i in range(10)}
    path = tmp_path / "groups.png"
    classes.per_class_accuracy(path, values, {}, counts, None, groups, "title")
    lines = drawn[0].axes[0].lines
    looks = {(ln.get_color(), ln.get_linestyle(), ln.get_marker()) for ln in lines}
    assert len(looks) == len(lines) == 10 and len(drawn[0].axes) == 2


def test_differences_from_sgd_have_intervals_and_classes_their_names(drawn, tmp_path):
    counts, _, accuracy, names, groups = results(10)
    values = {"SGD": np.array(accuracy), "SAM": np.array(accuracy) + 0.01}
    differences = {"SAM": np.array([np.full(10, 0.01), np.full(10, 0.02)])}
    path = tmp_path / "groups.png"
    classes.per_class_accuracy(
        path, values, differences, counts, names, groups, "title"
    )
    _, axes, count_axes = drawn[0].axes
    ((line, _, (bars,)),) = axes.containers
    np.testing.assert_allclose(line.get_ydata(), 1.0)
    ends = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[-1.0, 3.0]] * 10)
    assert [t.get_text() for t in count_axes.get_xticklabels()] == list(names)
    assert np.all(np.abs(line.get_xdata() - np.arange(10)) < 0.5)


def test_a_group_of_classes_that_is_empty_has_no_panel(drawn, tmp_path):
    known = {"mean": 0.5, "spread": None, "values": [0.5]}
    row = {"name": "sgd", "accuracy": known, "accuracy_many": known}
    row |= {"accuracy_medium": None, "accuracy_few": known}
    group_figures.method_comparison(tmp_path / "methods.png", [row], "title")
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles == ["overall", "many", "few"]


def test_reliability_diagram(drawn, tmp_path):
    calibration = np.zeros((3, 15))
    calibration[:, 7] = 10, 5.0, 2
    calibration[:, 14] = 30, 29.0, 30
    figures.reliability_diagram(tmp_path / "reliability.png", calibration, "title")
    axes, shares = drawn[0].axes
    assert [bar.get_height() for bar in axes.patches] == [20, 100]
    assert [bar.get_x() for bar in axes.patches] == pytest.approx([700 / 15, 1400 / 15])
    assert [bar.get_height() for bar in shares.patches if bar.get_height()] == [25, 75]
    assert axes.get_title() == "expected calibration error 10.0 %"


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_frequency_order_is_falling_and_keeps_ties_in_order(counts):
    order = frequency_order(np.array(counts)).tolist()
    expected = sorted(range(len(counts)), key=lambda c: (-counts[c], c))
    assert order == expected


@settings(deadline=None)
@given(
    st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=40),
    st.integers(0, 20).map(lambda half: 2 * half + 1),
)
def test_moving_average_is_the_mean_of_the_known_neighbours(fractions, width):
    values = percent(fractions)
    half = width // 2
    expected = []
    for place in range(len(values)):
        near = values[max(place - half, 0) : place + half + 1]
        near = near[~np.isnan(near)]
        expected.append(near.mean() if len(near) else np.nan)
    np.testing.assert_allclose(moving_average(values, width), expected, atol=1e-9)
