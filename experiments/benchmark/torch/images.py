"""CIFAR images in usual PyTorch style: read one by one in worker processes."""

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

_PADDING = 4


class Images(Dataset):
    """Images that are padded, randomly cropped and flipped, and normalised.

    Args:
      images: uint8, ``(size, height, width, channels)``.
      labels: int, ``(size,)``.
      mean: mean pixel value of each channel.
      std: standard deviation of each channel.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        mean: np.ndarray,
        std: np.ndarray,
    ):
        self._images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        self._labels = torch.from_numpy(labels.astype(np.int64))
        mean, std = (torch.from_numpy(np.float32(x)) for x in (mean, std))
        self._mean, self._std = mean[:, None, None], std[:, None, None]

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        image = F.pad(self._images[index], (_PADDING,) * 4)
        top, left = torch.randint(0, 2 * _PADDING + 1, (2,)).tolist()
        side = self._images.shape[-1]
        image = image[:, top : top + side, left : left + side]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return (image.float() - self._mean) / self._std, self._labels[index]
