"""From a configuration to its data."""

from experiments.config import Config
from experiments.data import digits
from experiments.data.dataset import Dataset


def load_dataset(config: Config) -> Dataset:
    """The data set of a recipe, cut to the tail that the configuration asks for."""
    return digits.load(config.subset_seed, config.imbalance_factor)
