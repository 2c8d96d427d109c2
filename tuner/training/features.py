"""Features of frozen towers, computed once for all trials and kept beside the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.batches import lengths
from captune.data_prep.pieces import cut_pieces, piece_ids
from captune.data_prep.store import PreparedData
from captune.model.backbones import weights_path
from captune.model.config import ImageConfig, TextConfig
from captune.model.frozen_features import CaptionFeatures, FrozenFeatures
from captune.model.transformers import WEIGHTS, weights_folder
from captune.reading import sha256
from captune.tuner.training.kept_rows import ROWS, KeptRows, folder_of

if TYPE_CHECKING:
    import keras

_BATCH = 64


class FeatureFiles(KeptRows):
    """What a tower makes of every picture, or every caption, of a data set.

    Args:
        encoder: that the features are of.
    """

    what = "features"
    otherwise = "search with train.cached_features: false"

    def __init__(
        self, data: PreparedData, encoder: ImageConfig | TextConfig, features: FrozenFeatures | CaptionFeatures
    ) -> None:
        count = data.num_pictures if isinstance(encoder, ImageConfig) else len(data)
        super().__init__(folder_of(data, features.name, _inputs(data, features)), count, features.shape)
        self.data, self.encoder, self.features = data, encoder, features

    def values(self, first: int, count: int) -> Iterator[NDArray[np.floating]]:
        """Of `count` pictures or captions from `first` on."""
        of = self._of_pictures if isinstance(self.encoder, ImageConfig) else self._of_captions
        return of(first, count)

    def _of_pictures(self, first: int, count: int) -> Iterator[NDArray[np.float32]]:
        """Of `count` pictures from `first` on, a batch at a time."""
        starts = range(first, first + count, _BATCH)
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._pictures, starts[0])
            for following in (*starts[1:], None):
                pictures = ahead.result()
                if following is not None:
                    ahead = reader.submit(self._pictures, following)
                yield self._answer(pictures)

    def _pictures(self, start: int) -> NDArray[np.uint8]:
        last = (start // ROWS + 1) * ROWS
        pictures = self.data.pictures(start, min(_BATCH, last - start))
        mirrored = isinstance(self.features, FrozenFeatures) and self.features.mirrored
        return pictures[:, :, ::-1] if mirrored else pictures

    def _of_captions(self, first: int, count: int) -> Iterator[NDArray[np.float32]]:
        """Of `count` captions from `first` on; those of like length go through the tower together."""
        assert isinstance(self.encoder, TextConfig)
        ids = text_tower_ids(self.data, self.encoder)[first : first + count]
        order = np.argsort(lengths(ids), kind="stable")
        values = np.empty((count, *self.features.shape), np.float32)
        for start in range(0, count, _BATCH):
            rows = order[start : start + _BATCH]
            values[rows] = self._answer({"caption": ids[rows]})
        yield values

    @cached_property
    def _answer(self) -> Callable[[Any], NDArray[np.floating]]:
        """Features of a batch of inputs."""
        import keras

        from captune.model.training import jit

        if keras.backend.backend() == "tensorflow" and not jit():
            from captune.model.on_tensorflow import with_constants

            return with_constants(self._network)
        self._network.jit_compile = jit()
        return lambda inputs: np.asarray(self._network.predict_on_batch(inputs))

    @cached_property
    def _network(self) -> keras.Model:
        import keras

        from captune.model import image_encoder, text_tower
        from captune.model.training import jit, put_through
        from captune.model.views import with_captions_cut

        if isinstance(self.encoder, ImageConfig):
            pixels = keras.Input((self.encoder.side, self.encoder.side, 3), dtype="uint8", name="image")
            network = keras.Model(pixels, image_encoder.features(pixels, self.encoder, load_weights=True))
            put_through(network, self.features.storage)
            return network
        tokens = keras.Input((self.encoder.max_tokens,), dtype="int32", name="caption")
        rows = text_tower_rows(self.data, self.encoder)
        values = text_tower.features(tokens, self.encoder, load_weights=True, pieces=rows)
        network = keras.Model({"caption": tokens}, values)
        put_through(network, self.features.storage)
        return network if jit() else with_captions_cut(network)


def text_tower_ids(data: PreparedData, text: TextConfig) -> NDArray[np.int32]:
    """(rows, max_tokens) ids of the word pieces of all captions, for a transformer. Raises DataError, WeightsError."""
    return piece_ids(data, weights_folder(text.weights, "text"), text.vocabulary_size, text.max_tokens)


def text_tower_rows(data: PreparedData, text: TextConfig) -> tuple[int, ...]:
    """Of each id the row in the vocabulary of the weights. Raises DataError, WeightsError."""
    return cut_pieces(data, weights_folder(text.weights, "text")).rows[: text.vocabulary_size]


def _inputs(data: PreparedData, features: FrozenFeatures | CaptionFeatures) -> dict[str, Any]:
    """All that features follow from, but data and framework."""
    inputs: dict[str, Any] = features.identity()
    if isinstance(features, CaptionFeatures):
        folder = weights_folder(features.weights, "text")
        inputs["pieces"] = cut_pieces(data, folder).pieces.to_json()
        inputs["weights"] = sha256(folder / WEIGHTS)
    elif features.backbone == "transformer":
        inputs["weights"] = sha256(weights_folder(features.weights, "vision") / WEIGHTS)
    elif features.weights not in ("imagenet", "none"):
        inputs["weights"] = sha256(weights_path(features.weights))
    return inputs
