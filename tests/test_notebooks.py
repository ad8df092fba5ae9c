"""Tests of the Colab notebooks: they run completely, and are stored without outputs."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from commands import PATIENCE

pytest.importorskip("sklearn", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("ipykernel", reason="needs focal_sam_jax[test]")

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
QUICK = {
    "METHODS": "sgd focal_sam",
    "EPOCHS": 2,
    "ASCENT_STEPS": 1,
    "RANDOM_POINTS": 1,
    "LANCZOS_STEPS": 3,
    "GRID": 3,
}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(name):
    return nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def fill_in(notebook, **values):
    """Sets fields of the forms, as a user of Colab does."""
    for name, value in values.items():
        field = re.compile(rf"^{name} = .*(?=  # @param)", re.MULTILINE)
        found = [cell for cell in code(notebook) if field.search(cell.source)]
        assert len(found) == 1, name
        found[0].source = field.sub(f"{name} = {value!r}", found[0].source)


def execute(notebook, folder, devices, hidden=("tensorflow",)):
    """Runs all cells in a new kernel: ``hidden`` packages cannot be imported, and pip
    only writes its arguments to a file."""
    pip = folder / "python" / "pip"
    pip.mkdir(parents=True)
    (pip / "__init__.py").touch()
    # To a file: IPython may lose the output of a short command.
    (pip / "__main__.py").write_text(
        "import sys; from pathlib import Path\n"
        "Path(__file__).with_name('told.txt').write_text(' '.join(sys.argv[1:]))"
    )
    hide = f"import sys; sys.modules |= dict.fromkeys({list(hidden)})\n"
    (folder / "python" / "sitecustomize.py").write_text(hide)
    paths = [str(folder / "python"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    inherited = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "IPYTHONDIR": str(folder / "ipython"),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",  # Training is long enough for it.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    place = {"metadata": {"path": folder}}
    client = NotebookClient(notebook, timeout=PATIENCE, resources=place)
    client.execute(env=inherited | own)
    nbformat.validate(notebook)
    for cell in code(notebook):
        assert cell.execution_count is not None
        assert not [out for out in cell.outputs if out.output_type == "error"]


def said(notebook):
    """Returns all output text, without colour codes."""
    outputs = [out for cell in code(notebook) for out in cell.outputs]
    printed = [out.text for out in outputs if out.output_type == "stream"]
    shown = [out.data for out in outputs if "data" in out]
    words = [d.get("text/markdown", d.get("text/plain", "")) for d in shown]
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", "\n".join(printed + words))


def pictures(notebook):
    """Counts the figures in outputs."""
    outputs = [out for cell in code(notebook) for out in cell.outputs]
    return sum("image/png" in out.get("data", {}) for out in outputs)


def test_both_are_there():
    assert [path.stem for path in NOTEBOOKS] == ["focal_sam_cifar_lt_tpu", "quickstart"]


@every_notebook
def test_it_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code(notebook):
        assert not cell.outputs and cell.execution_count is None


def test_both_install_in_the_same_way():
    cells = {
        path.stem: next(c.source for c in code(read(path.stem)) if "SOURCE" in c.source)
        for path in NOTEBOOKS
    }
    quick = cells["quickstart"]
    assert cells["focal_sam_cifar_lt_tpu"] == quick.replace(
        "[experiments]", "[experiments,data]"
    )
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert f'SOURCE = "{urls["Source"]}"  #' in quick


@pytest.mark.slow
def test_quickstart(tmp_path):
    notebook = read("quickstart")
    fill_in(notebook, STEPS=100)
    execute(notebook, tmp_path, devices=1)
    assert pictures(notebook) == 3
    assert re.search(r"\| Focal-SAM( \| \d+\.\d){4}", said(notebook))


@pytest.mark.slow
def test_all_devices_train_and_are_measured(tmp_path):
    notebook = read("focal_sam_cifar_lt_tpu")
    fill_in(notebook, DATA="digits_lt", **QUICK)
    execute(notebook, tmp_path, devices=8)
    text = said(notebook)
    assert "8 of 8 devices" in text and "on 8 cpu" in text
    assert "uses digits-LT instead" not in text
    assert pictures(notebook) == 6
    away = re.findall(r"largest difference .*: (\S+)", text)
    assert len(away) == 2 and all(float(number) < 1e-5 for number in away)
    assert len(list((tmp_path / "runs").glob("digits_lt-*/metrics.jsonl"))) == 2


def said_of_data(folder, **parameters):
    """Runs the cells until the one that chooses the data."""
    notebook = read("focal_sam_cifar_lt_tpu")
    fill_in(notebook, **parameters)
    cells = code(notebook)
    until = next(i for i, cell in enumerate(cells) if "find_prepared" in cell.source)
    notebook.cells = cells[: until + 1]
    execute(notebook, folder, devices=1)
    return said(notebook)


@pytest.mark.slow
def test_without_cifar_it_goes_on_with_digits_and_says_so(tmp_path):
    text = said_of_data(tmp_path)
    assert "CIFAR-100 could not be prepared. This run uses digits-LT instead" in text
    assert "Preparing data sets needs the package tensorflow" in text
    assert "The recipe is digits_lt." in text


@pytest.mark.slow
def test_cifar_that_is_prepared_is_taken(tmp_path):
    prepared = tmp_path / "sets" / "cifar100" / "3.0.2"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").write_text("{}")
    text = said_of_data(tmp_path, DATA_DIR=str(tmp_path / "sets"))
    assert "The recipe is cifar100_lt." in text


def checkout(folder):
    """Writes the file that marks a checkout."""
    (folder / "experiments").mkdir(parents=True)
    (folder / "experiments" / "train.py").touch()
    return folder


def install(folder, source, hidden=("tensorflow", "experiments")):
    """Runs the install cell without the package; pip installs nothing."""
    notebook = read("quickstart")
    fill_in(notebook, SOURCE=source)
    cells = [cell for cell in code(notebook) if "SOURCE" in cell.source]
    notebook.cells = [*cells, new_code_cell("print('now in', os.getcwd())")]
    execute(notebook, folder, devices=1, hidden=hidden)
    told = folder / "python" / "pip" / "told.txt"
    return said(notebook), told.read_text() if told.exists() else None


@pytest.mark.slow
def test_it_installs_the_checkout_that_it_lies_in(tmp_path):
    root = checkout(tmp_path / "checkout")
    (root / "colab").mkdir()
    text, pip = install(root / "colab", "")
    assert pip == f"install --quiet -e {root}[experiments] jax[]"
    assert f"now in {root}\n" in text


@pytest.mark.slow
def test_it_installs_from_git(tmp_path):
    origin = checkout(tmp_path / "origin")
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True, timeout=PATIENCE)
    here = tmp_path / "here"
    here.mkdir()
    text, pip = install(here, origin.as_uri())
    assert pip == f"install --quiet -e {here / 'repository'}[experiments] jax[]"
    assert f"now in {here / 'repository'}\n" in text


@pytest.mark.slow
def test_without_a_checkout_it_says_what_to_do(tmp_path):
    here = tmp_path / "far" / "away"
    here.mkdir(parents=True)
    with pytest.raises(CellExecutionError, match="Set SOURCE to the git URL"):
        install(here, "")


@pytest.mark.slow
def test_it_installs_nothing_over_what_is_there(tmp_path):
    text, pip = install(tmp_path, "", hidden=())
    assert pip is None and f"now in {tmp_path}\n" in text
