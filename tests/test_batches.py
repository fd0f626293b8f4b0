"""Batches drawn from the data of `fit`: what they hold; the training misses nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfmot_sws as sws
from tfmot_sws.training import batches as module
from tfmot_sws.training.batches import draw_batches

# Row i is filled with i, so that a batch tells which rows it has.
X = np.repeat(np.arange(100, dtype="float32")[:, None], 4, axis=1)
Y = np.arange(100, dtype="int32")
WEIGHT = np.arange(100, dtype="float32") / 10


def rows(batch):
    return batch[0][:, 0].astype(int).tolist()


def check_targets(batches):
    for x, y, _ in batches:
        np.testing.assert_array_equal(x[:, 0], np.ravel(y))


# Arrays.


def test_arrays_give_rows_from_their_whole_length():
    """Rows may be sorted, by class for example."""
    batches = draw_batches({"x": X, "y": Y, "batch_size": 10}, most=3)
    assert [rows(batch) for batch in batches] == [
        list(range(0, 100, 10)),
        list(range(3, 100, 10)),
        list(range(6, 100, 10)),
    ]
    check_targets(batches)


def test_sorted_classes_are_all_in_a_batch():
    labels = np.repeat(np.arange(10), 100)
    batches = draw_batches({"x": labels[:, None], "y": labels, "batch_size": 32})
    assert len(batches) == 8
    for _, y, _ in batches:
        assert len(y) == 32
        assert set(y) == set(range(10))


@pytest.mark.parametrize(
    ("arguments", "shapes"),
    [({}, [32] * 3), ({"batch_size": 64}, [64]), ({"batch_size": 512}, [100])],
)
def test_batches_are_as_large_as_those_of_the_training(arguments, shapes):
    batches = draw_batches({"x": X, "y": Y, **arguments})
    assert [len(x) for x, _, _ in batches] == shapes
    taken = [row for batch in batches for row in rows(batch)]
    assert len(set(taken)) == len(taken)


def test_validation_data_is_left_out():
    batches = draw_batches({"x": X, "y": Y, "batch_size": 8, "validation_split": 0.25})
    taken = {row for batch in batches for row in rows(batch)}
    assert max(taken) < 75
    assert len(taken) == 64


def test_sample_weights_come_along():
    for x, _, weight in draw_batches({"x": X, "y": Y, "sample_weight": WEIGHT}):
        np.testing.assert_allclose(weight, x[:, 0] / 10)


def test_without_targets():
    (x, y, weight), *_ = draw_batches({"x": X})
    assert x.shape == (32, 4)
    assert y is None
    assert weight is None


@pytest.mark.parametrize("convert", [tf.constant, np.asarray])
def test_dicts_and_lists_of_arrays(convert):
    x = {"first": convert(X), "second": [convert(X[:, :1]), convert(2 * X)]}
    batches = draw_batches({"x": x, "y": {"out": convert(Y)}, "batch_size": 20})
    assert len(batches) == 5
    for x, y, _ in batches:
        assert isinstance(x["first"], np.ndarray)
        np.testing.assert_array_equal(x["first"][:, 0], y["out"])
        np.testing.assert_array_equal(x["second"][0], x["first"][:, :1])
        np.testing.assert_array_equal(x["second"][1], 2 * x["first"])


def test_only_as_many_as_fit_into_memory(monkeypatch):
    monkeypatch.setattr(module, "_MAX_BYTES", 2 * 10 * (4 * 4 + 4))
    assert len(draw_batches({"x": X, "y": Y, "batch_size": 10})) == 2
    monkeypatch.setattr(module, "_MAX_BYTES", 1)
    assert len(draw_batches({"x": X, "y": Y, "batch_size": 10})) == 1


# Data that comes in batches.


class Batches:
    """Ten batches of ten rows, of whichever class of a library."""

    asked: list

    def __getitem__(self, index):
        self.asked.append(index)
        part = slice(10 * index, 10 * index + 10)
        return X[part], Y[part]

    def __len__(self):
        return 10


def sequence(kind):
    data = type("Data", (Batches, kind), {})()
    data.asked = []
    return data


@pytest.mark.parametrize("kind", [keras.utils.PyDataset, tf_keras.utils.Sequence])
def test_sequences_are_asked_from_their_whole_length(kind):
    data = sequence(kind)
    batches = draw_batches({"x": data}, most=4)
    assert data.asked == [0, 2, 5, 7]
    assert [rows(batch)[0] for batch in batches] == [0, 20, 50, 70]
    check_targets(batches)


def test_endless_sequence():
    class Endless(keras.utils.PyDataset):
        num_batches = None

        def __getitem__(self, index):
            return X[index : index + 10], Y[index : index + 10]

    batches = draw_batches({"x": Endless()}, most=3)
    assert [rows(batch)[0] for batch in batches] == [0, 1, 2]


@pytest.mark.parametrize("endless", [False, True])
def test_dataset(endless):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y, WEIGHT)).batch(30)
    batches = draw_batches({"x": dataset.repeat() if endless else dataset})
    assert [len(x) for x, _, _ in batches] == (
        [30, 30, 30, 10] * 2 if endless else [30, 30, 30, 10]
    )
    check_targets(batches)
    np.testing.assert_allclose(batches[1][2], WEIGHT[30:60])


def test_dataset_of_dicts():
    dataset = tf.data.Dataset.from_tensor_slices(({"a": X, "b": Y}, Y)).batch(50)
    batches = draw_batches({"x": dataset})
    assert [sorted(x) for x, _, _ in batches] == [["a", "b"]] * 2
    np.testing.assert_array_equal(batches[0][0]["a"], X[:50])


def test_data_loader():
    torch = pytest.importorskip("torch")
    tensors = torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*tensors), batch_size=40
    )
    batches = draw_batches({"x": loader})
    assert [len(x) for x, _, _ in batches] == [40, 40, 20]
    assert all(isinstance(leaf, np.ndarray) for leaf in batches[0][:2])
    check_targets(batches)


def generate(asked=None):
    for i in range(12):
        if asked is not None:
            asked.append(i)
        yield X[8 * i : 8 * i + 8], Y[8 * i : 8 * i + 8]


@pytest.mark.parametrize("make", [generate, lambda: iter(list(generate()))])
def test_generator_and_iterator_go_on_with_what_was_drawn(make):
    arguments = {"x": make()}
    batches = draw_batches(arguments, most=5)
    assert [rows(batch)[0] for batch in batches] == [0, 8, 16, 24, 32]
    seen = list(arguments["x"])
    assert [int(x[0, 0]) for x, _ in seen] == list(range(0, 96, 8))


def test_generator_is_asked_for_no_more_than_is_drawn():
    asked = []
    draw_batches({"x": generate(asked)}, most=5)
    assert asked == list(range(5))


def test_generator_shorter_than_what_is_asked_for():
    arguments = {"x": generate()}
    assert len(draw_batches(arguments, most=50)) == 12
    assert len(list(arguments["x"])) == 12


# Data of an unknown kind: the training must go on without.


def ragged():
    return tf.data.Dataset.from_tensors(tf.ragged.constant([[1], [2, 3]]))


@pytest.mark.parametrize(
    "x",
    [
        None,
        object(),
        [1.0, 2.0, 3.0],
        tf.data.Dataset.from_tensor_slices(tf.sparse.eye(6)).batch(3),
        ragged(),
    ],
    ids=["none", "object", "numbers", "sparse", "ragged"],
)
def test_of_unknown_data_nothing_is_drawn(x):
    assert draw_batches({"x": x}) == []


# Within `fit`.


class Steps(keras.callbacks.Callback):
    """The rows of each step."""

    def __init__(self):
        super().__init__()
        self.of_call, self.rows = None, []

    def note(self, targets, outputs):
        """A loss that keeps the targets; what is measured between steps is no step."""
        self.of_call = np.ravel(targets).astype(int).tolist()
        return keras.ops.mean(keras.ops.square(outputs), axis=-1)

    def on_train_batch_end(self, batch, logs=None):
        self.rows.append(self.of_call)


def train(x, y=None, **arguments):
    """Gives the trained model, and the rows of each step."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    shared = sws.apply_soft_weight_sharing(model, num_components=4, complexity_weight=1e-6)
    steps = Steps()
    shared.compile(keras.optimizers.SGD(0.0), steps.note, run_eagerly=True)
    # Steps notes a row after the callback that comes first has measured.
    callbacks = [sws.AnnealAndMerge(), steps]
    shared.fit(x, y, verbose=0, callbacks=callbacks, shuffle=False, **arguments)
    return shared, steps.rows


def test_training_on_a_generator_sees_every_element_in_order():
    def endless():
        while True:
            yield from generate()

    _, steps = train(endless(), steps_per_epoch=12, epochs=2, batch_size=8)
    expected = [list(range(8 * i, 8 * i + 8)) for i in range(12)]
    assert steps == expected * 2


def test_training_on_a_generator_that_ends():
    _, steps = train(generate(), epochs=1, batch_size=8, steps_per_epoch=12)
    assert steps == [list(range(8 * i, 8 * i + 8)) for i in range(12)]


def test_training_leaves_the_batches_with_the_model():
    shared, _ = train(X, Y, batch_size=50, epochs=2)
    assert [rows(batch) for batch in shared.batches] == [
        list(range(0, 100, 2)),
        list(range(1, 100, 2)),
    ]


def test_training_on_sparse_data(rng):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), sparse=True)
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    shared = sws.apply_soft_weight_sharing(model, num_components=4, train_size=12)
    shared.compile("sgd", "mse")
    y = rng.standard_normal((12, 2)).astype("float32")
    eye = tf.sparse.concat(0, [tf.sparse.eye(6)] * 2)
    dataset = tf.data.Dataset.from_tensor_slices((eye, y)).batch(4)
    with pytest.warns(UserWarning, match="data is of an unknown kind"):
        shared.fit(dataset, verbose=0, shuffle=False, callbacks=[sws.AnnealAndMerge()])
    assert shared.batches == []
