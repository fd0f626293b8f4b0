"""The number of training examples, for every kind of data that `fit` takes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmot_sws.training.train_size import count_examples


class Batches(keras.utils.PyDataset):
    """Batches of 8; the number of batches may be unknown."""

    def __init__(self, num_batches):
        super().__init__()
        self.count = num_batches

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        return np.zeros((8, 3)), np.zeros((8, 1))


class Loader:
    """What counts of a torch DataLoader."""

    dataset = range(77)
    batch_size = 8


def generator():
    while True:
        yield np.zeros((8, 3)), np.zeros((8, 1))


def unknown(dataset):
    return dataset.filter(lambda _: True)


X = np.zeros((50, 3))
DATASET = tf.data.Dataset.from_tensor_slices(X)


@pytest.mark.parametrize(
    "x",
    [
        X,
        tf.zeros((50, 3)),
        [X, np.zeros((50, 2))],
        (X,),
        {"image": X, "more": {"vector": np.zeros(50)}},
        [[0.0, 1.0]] * 50,
        list(range(50)),
    ],
)
def test_arrays(x):
    assert count_examples(x) == 50


@pytest.mark.parametrize(("size", "share"), [(100, 0.2), (50, 0.5), (101, 0.2), (7, 0.25)])
def test_validation_split_is_taken_off_as_keras_does(size, share):
    class Seen(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.steps = self.params["steps"]

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, seen = np.zeros((size, 1)), Seen()
    model.fit(x, x, batch_size=1, validation_split=share, verbose=0, callbacks=[seen])
    assert count_examples(x, validation_split=share) == seen.steps


def test_batch_size_and_steps_do_not_matter_for_arrays():
    assert count_examples(X, batch_size=7, steps_per_epoch=2) == 50


@pytest.mark.parametrize(
    ("x", "steps", "expected"),
    [
        (DATASET.batch(10), None, 50),
        (DATASET.batch(10), 3, 50),
        (tf.data.Dataset.zip((DATASET, DATASET)).batch(10), None, 50),
        (DATASET.batch(10).map(lambda x: {"a": x, "b": x}), None, 50),
        (DATASET.batch(20), None, 60),
        (unknown(DATASET.batch(10)), 5, 50),
        (DATASET.batch(10).repeat(), 4, 40),
        (Batches(6), None, 48),
        (Batches(None), 5, 40),
        (Loader(), None, 77),
    ],
)
def test_batched_data(x, steps, expected):
    assert count_examples(x, steps_per_epoch=steps) == expected


def test_generator_with_steps_and_batch_size():
    assert count_examples(generator(), steps_per_epoch=5, batch_size=8) == 40


@pytest.mark.parametrize(
    ("x", "steps", "name"),
    [
        (generator(), None, "generator"),
        (generator(), 5, "generator"),
        (unknown(DATASET.batch(10)), None, "FilterDataset"),
        (DATASET.batch(10).repeat(), None, "RepeatDataset"),
        (DATASET.map(lambda x: x[0]), None, "MapDataset"),
        (Batches(None), None, "Batches"),
        (None, None, "NoneType"),
    ],
)
def test_unknown_size_asks_for_train_size(x, steps, name):
    message = f"examples in _?{name} cannot be worked out. Pass train_size="
    with pytest.raises(ValueError, match=message):
        count_examples(x, steps_per_epoch=steps)


def test_generator_is_not_consumed():
    batches = iter([1, 2, 3])
    with pytest.raises(ValueError, match="train_size="):
        count_examples(batches, steps_per_epoch=3)
    assert list(batches) == [1, 2, 3]


@pytest.mark.parametrize(
    "x", [np.zeros((0, 3)), [np.zeros((0, 3))], DATASET.take(0).batch(10), Batches(0)]
)
def test_empty_data_is_turned_down(x):
    with pytest.raises(ValueError, match="no training examples"):
        count_examples(x)


def test_split_that_leaves_nothing_is_turned_down():
    with pytest.raises(ValueError, match="no training examples"):
        count_examples(np.zeros((4, 3)), validation_split=1.0)
