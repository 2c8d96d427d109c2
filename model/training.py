"""Fits one network, epoch by epoch. Knows batches of arrays, not where they come from, nor who asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from captune.model.checkpoint import Checkpoint, numbered
from captune.model.class_weights import DynamicWeights
from captune.model.classifier import build, parts_of, set_stack, start_at
from captune.model.config import Storage, TrialConfig
from captune.model.image_encoder import normalisations
from captune.model.losses import log_odds
from captune.model.objective import objective
from captune.model.optimizer import make_optimizer
from captune.model.part_of_epoch import Call, Heard, PartOfEpoch, seconds_of_step, unheard
from captune.model.stack import Stack
from captune.model.storage import through
from captune.model.views import (
    CAPTION_FEATURES,
    FEATURES,
    after_towers,
    as_it_is,
    pretrained_weights,
    twin_of,
    with_augmentation,
    with_captions_cut,
)

Arrays = tuple[dict[str, NDArray[Any]], NDArray[np.float32]]
# Of the framework. On a CPU that spares a tenth of an epoch of large networks, a quarter of small ones.
_MOST_STEPS = 16
_LEAST_CALLS = 8  # of an epoch: large networks on few rows show how far they are, too
_HEARD_SECONDS = 1.0


class Batches(Protocol):
    """A source of batches: `batch(epoch, index)` for index below `len`, the same arrays for the same numbers."""

    def __len__(self) -> int: ...

    def batch(self, number: int, index: int) -> Arrays:
        """Inputs by name and multi-hot labels (batch, num_labels) float32."""
        ...


@dataclass(frozen=True)
class Spread:
    """Devices that share each batch between them (data parallelism).

    scope: what a network is built and trained in for that. devices: how many.
    """

    scope: Callable[[], AbstractContextManager[Any]]
    devices: int


class Training:
    """One network being trained.

    Args:
        config: the network and how it is trained.
        train: shuffled training batches.
        label_counts: training examples with each label, for class weights.
        seed: of the initial weights, dropout and augmentation. Same seed, data and machine: same network on CPUs.
        bfloat16: whether steps are computed in bfloat16 on float32 weights (Micikevicius et al., 2018, arXiv
            1710.03740, without their loss scaling: bfloat16 has the range of float32). `network` is float32 all the
            same, so scores and what is shipped are.
        spread: the devices that train together; None for one. `network` is on one all the same.
        pieces: of a pretrained text tower, see captune.model.text_tower.
        passes: over `train`, an epoch.
    """

    def __init__(
        self,
        config: TrialConfig,
        train: Batches,
        label_counts: Sequence[int],
        *,
        seed: int,
        bfloat16: bool = False,
        spread: Spread | None = None,
        pieces: Sequence[int] | None = None,
        passes: int = 1,
    ) -> None:
        started = time.monotonic()
        keras.utils.clear_session()  # frees the graphs of the trial before, where a worker lives on
        keras.utils.set_random_seed(seed)
        self._train = train
        self._passes = passes
        self._steps = passes * len(train)  # of an epoch
        self._scope: Callable[[], AbstractContextManager[Any]] = nullcontext if spread is None else spread.scope
        self._multiple = 1 if spread is None else spread.devices
        self._storage = config.model.storage
        # XLA would compile for each width of the captions.
        cut = with_captions_cut if config.model.text is not None and not jit() else as_it_is
        self.network = build(config.model, pieces=pieces)
        self._scored = cut(self.network)
        self._head: keras.Model | None = None  # from features of frozen towers to probabilities
        if config.train.cached_features:
            self._head = cut(after_towers(self.network, self.network.output, config.model))
        self._parts: keras.Model | None = None  # from what is scored to the logits of its parts
        if config.model.has_parts:
            parts = parts_of(self.network)
            inputs = {x.name: x for x in self.network.inputs}
            cached = config.train.cached_features
            self._parts = cut(after_towers(self.network, parts, config.model) if cached else keras.Model(inputs, parts))
        with self._scope():
            # The network that learns: the same one, or its twin that computes in bfloat16 or on several devices.
            twin = bfloat16 or spread is not None
            if spread is not None:
                keras.utils.set_random_seed(seed)  # the same first weights and dropout as on one device
            self._learner = twin_of(config.model, bfloat16=bfloat16, pieces=pieces) if twin else self.network
            if config.train.prior_start:
                start_at(self._learner, log_odds(label_counts, _examples(train)))
            self._class_weights = DynamicWeights(len(label_counts)) if config.train.class_weights == "dynamic" else None
            weights = None if self._class_weights is None else self._class_weights.values
            loss, output = objective(self._learner, config, label_counts, weights)
            self._trained = cut(
                after_towers(self._learner, output, config.model)
                if config.train.cached_features
                else with_augmentation(self._learner, output, config, seed)
            )
            optimizer = make_optimizer(
                config.train,
                steps=config.train.epochs * self._steps,
                in_one_kernel=spread is None and not jit(),
                tower=pretrained_weights(self._learner, config.model),
                storage=self._storage,
            )
            # With its slots made beforehand, TensorFlow traces the training step once instead of twice.
            optimizer.build(self._trained.trainable_variables)
            self._trained.compile(
                optimizer=optimizer,
                loss=loss,
                weighted_metrics=None if self._class_weights is None else [self._class_weights],
                jit_compile=jit(),
                # TensorFlow cannot take several at once where the last call of an epoch has fewer on several devices.
                steps_per_execution=max(1, min(_MOST_STEPS, self._steps // _LEAST_CALLS)) if spread is None else 1,
            )
        self._traced = False
        self.compile_seconds = time.monotonic() - started  # and from then on until the first steps are done

    def checkpoint(self, epoch: int, identity: str) -> Checkpoint:
        """All that training has changed by the end of `epoch`."""
        values = [keras.ops.convert_to_numpy(variable.value) for variable in self._state()]
        return Checkpoint(epoch, identity, numbered(values))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to where the checkpoint was made; training then takes the same course as it did from there.

        Raises:
            ValueError: it is of another network.
        """
        variables = self._state()
        values = [checkpoint.arrays[name] for name in sorted(checkpoint.arrays)]
        if [tuple(v.shape) for v in variables] != [value.shape for value in values]:
            raise ValueError("the checkpoint is of another network")
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        for layer in normalisations(self._learner):
            layer.finalize_state()

    def _state(self) -> list[Any]:
        """Weights, states of dropout's and augmentation's random generators, optimizer slots, step count and, where
        they change, the weights of the labels."""
        labels = [] if self._class_weights is None else [self._class_weights.values]
        return [*self._trained.variables, *self._trained.optimizer.variables, *labels]

    def epoch(self, number: int, heard: Heard = unheard) -> float:
        """Trains on all batches of epoch `number` (from 1); returns the mean loss, NaN as soon as one batch has it.

        Args:
            heard: told how far it is.
        """
        started, calls = time.monotonic(), list[Call]()
        told = started

        def after_call(last_step: int, logs: object = None) -> None:
            nonlocal told
            calls.append((now := time.monotonic(), min(last_step + 1, self._steps)))
            if now - told >= _HEARD_SECONDS:
                told = now
                heard(PartOfEpoch.after(number, calls, self._steps))

        optimizer = self._trained.optimizer
        averages = optimizer.use_ema
        # As it ends, fit would put the averaged weights in the place of the trained ones for good.
        apart = keras.callbacks.LambdaCallback(
            on_train_batch_end=after_call,
            on_epoch_end=lambda *_: setattr(optimizer, "use_ema", False),
        )
        try:
            with self._scope():
                history = self._trained.fit(
                    self._read(number),
                    epochs=1,
                    verbose=0,
                    shuffle=False,
                    callbacks=[keras.callbacks.TerminateOnNaN(), apart],
                )
        finally:
            optimizer.use_ema = averages
        if self._class_weights is not None:
            self._class_weights.take_up()
        if not self._traced:
            self._traced = True
            first, done = calls[0]
            self.compile_seconds += max(0.0, first - started - done * (seconds_of_step(calls) or 0.0))
        return float(history.history["loss"][-1])

    def _read(self, number: int) -> Any:
        """The batches of epoch `number` as Keras's fit takes them."""
        sequence = _Sequence(self._train, number, self._passes, self._multiple)
        if keras.backend.backend() != "tensorflow":
            return sequence
        from captune.model.on_tensorflow import read_ahead

        return read_ahead(sequence)

    def predict(self, batches: Batches, *, stored: bool = True) -> NDArray[np.float32]:
        """Probabilities (n, num_labels) of all examples of `batches`.

        Args:
            stored: by the weights as they come back from the storage of the configuration, which are what is shipped;
                otherwise by what they were before.
        """
        cached = self._head is not None and {FEATURES, CAPTION_FEATURES} & batches.batch(0, 0)[0].keys()
        network = self._head if cached else self._scored
        with self.averaged(), self._as_stored(network) if stored else nullcontext():
            return predict(network, batches)

    def parts(self, batches: Batches) -> NDArray[np.float32] | None:
        """Logits of the parts (n, 3, num_labels) of all examples of `batches`, by the weights as they are shipped.

        Args:
            batches: with features of pictures where training has them. None is returned where fusion is not summed.
        """
        if self._parts is None:
            return None
        with self.averaged(), self._as_stored(self._parts):
            return predict(self._parts, batches)

    @contextmanager
    def stacked(self, stack: Stack | None) -> Iterator[None]:
        """The network with a stack, as it is scored and saved; training goes on with the plain sum."""
        networks = [] if stack is None else [self.network, self._learner]
        for network in networks:
            set_stack(network, stack)
        try:
            yield
        finally:
            for network in networks:
                set_stack(network, None)

    @contextmanager
    def _as_stored(self, network: keras.Model) -> Iterator[None]:
        """The network with its weights as they come back from storage; training goes on with what they were."""
        if self._storage == "float32":
            yield
            return
        weights = network.get_weights()
        put_through(network, self._storage)
        try:
            yield
        finally:
            network.set_weights(weights)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network as it is scored and saved: averaged, where weights are; training goes on with what they were."""
        with self._averages_in_place():
            if self._learner is not self.network:
                self.network.set_weights(self._learner.get_weights())
                for layer in normalisations(self.network):
                    layer.finalize_state()
            yield

    @contextmanager
    def _averages_in_place(self) -> Iterator[None]:
        optimizer = self._trained.optimizer
        if not optimizer.use_ema:
            yield
            return
        # Keras's own SwapEMAWeights swaps by adding and subtracting, which changes the last bits of both.
        weights = self._trained.trainable_variables
        values = [keras.ops.copy(weight.value) for weight in weights]
        optimizer.finalize_variable_values(weights)
        for weight in weights:  # arrays of their own: JAX takes those of a network's weights along when it predicts
            weight.assign(keras.ops.copy(weight.value))
        try:
            yield
        finally:
            for weight, value in zip(weights, values, strict=True):
                weight.assign(value)


def _examples(batches: Batches) -> int:
    """How many `batches` hold: all are as large as the first but for the last."""
    first, last = (len(batches.batch(1, index)[1]) for index in (0, len(batches) - 1))
    return (len(batches) - 1) * first + last


def put_through(network: keras.Model, storage: Storage) -> None:
    """Replaces every weight by what comes back of it from `storage`."""
    network.set_weights([through(values, storage) for values in network.get_weights()])


def predict(network: keras.Model, batches: Batches) -> NDArray[np.float32]:
    """Probabilities (n, num_labels) of all examples of `batches`, in their order."""
    network.jit_compile = jit()
    rows = [network.predict_on_batch(batches.batch(0, index)[0]) for index in range(len(batches))]
    return np.concatenate(rows)


class _Sequence(keras.utils.PyDataset):
    """One epoch of batches, as Keras reads them: `passes` over the examples, each in an order of its own.

    Several devices take as many examples each: with `multiple` above 1 the first ones of a batch fill it up to a
    multiple, and count nothing. Its loss is the mean over the others, whatever weighs nothing. They have no caption, so
    that no other is compared with them (captune.model.alignment).
    """

    def __init__(self, batches: Batches, number: int, passes: int, multiple: int) -> None:
        super().__init__()
        self._batches = batches
        self._first = (number - 1) * passes + 1
        self._passes = passes
        self._multiple = multiple

    def __len__(self) -> int:
        return self._passes * len(self._batches)

    def __getitem__(self, index: int) -> Arrays | tuple[dict[str, NDArray[Any]], NDArray[np.float32], NDArray[Any]]:
        later, place = divmod(index, len(self._batches))
        inputs, labels = self._batches.batch(self._first + later, place)
        if self._multiple == 1:
            return inputs, labels
        count = len(labels)
        places = np.arange(-(-count // self._multiple) * self._multiple)
        weights = np.where(places < count, len(places) / count, 0).astype(np.float32)
        filled = {name: values[places % count] for name, values in inputs.items()}
        if "caption" in filled:
            filled["caption"][count:] = 0
        return filled, labels[places % count], weights


def jit() -> bool | str:
    """XLA where it pays: not on TensorFlow's CPU, where compiling costs seconds a trial."""
    return False if keras.backend.backend() == "tensorflow" and not keras.distribution.list_devices("gpu") else "auto"
