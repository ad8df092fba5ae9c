"""Conversion of texts to CLIP's tokens."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.errors import UserError, import_package
from experiments.models.clip.architecture import Text

_START, _END = "<|startoftext|>", "<|endoftext|>"


class Tokenizer:
    """The tokenizer of a model's ``tokenizer.json``."""

    def __init__(self, path: Path, sizes: Text):
        """
        Args:
          path: path of the file.
          sizes: sizes of the text tower.

        Raises:
          UserError: if the file is missing, no tokenizer, or of another model.
        """
        tokenizers = import_package("tokenizers", "CLIP's text", "clip")
        if not path.exists():
            raise UserError(
                f"prompts need {path}, which is missing: copy it from the model's "
                "page, or choose --head-init random."
            )
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises a bare Exception.
            raise UserError(f"{path} is not a tokenizer: {error}.") from None
        self._start, self._end = map(self._tokenizer.token_to_id, (_START, _END))
        if self._start is None or self._end is None:
            raise UserError(
                f"{path} is not a CLIP tokenizer: it lacks {_START} or {_END}."
            )
        largest = max(self._tokenizer.get_vocab().values())
        if largest >= sizes.vocabulary:
            raise UserError(
                f"{path} has tokens up to {largest}, but the text tower has "
                f"{sizes.vocabulary}: both must be of the same model."
            )
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._context = sizes.context

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns start, tokens, end, and zeros up to the context; cuts long texts.

        Returns:
          int32, ``(len(texts), context)``.
        """
        tokens = np.zeros((len(texts), self._context), np.int32)
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        for row, text in zip(tokens, encoded, strict=True):
            inner = text.ids[: self._context - 2]
            row[: len(inner) + 2] = [self._start, *inner, self._end]
        return tokens
