"""Single tf_keras layers, chosen ones in clone_model, scopes: as tfmot does it."""

import warnings

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
import tf_keras
from families import GENTLE
from tf_keras_families import make_data, sequential

import tfmot_sws as sws

DATA = make_data("sequential", np.random.default_rng(0))
SETTINGS = {**GENTLE, "num_components": 4, "train_size": 32, "complexity_weight": 1e-3}


def wrap(layer):
    return sws.apply_soft_weight_sharing(layer, **SETTINGS)


def train(model, data=DATA, epochs=2, **kwargs):
    model.compile("adam", loss="mse")
    sws.measure_sensitivity(model, *data)
    callbacks = [sws.AnnealAndMerge(**kwargs)]
    return model.fit(*data, epochs=epochs, batch_size=8, verbose=0, callbacks=callbacks).history


def distinct(model):
    """Number of distinct values of each kernel."""
    return [len(np.unique(w)) for w in model.get_weights() if w.ndim > 1]


def chosen_layers():
    """A model of which the first Dense layer only is wrapped, and the original."""
    model = sequential(tf_keras)
    first = model.layers[0]
    clone = tf_keras.models.clone_model(
        model, clone_function=lambda layer: wrap(layer) if layer is first else layer
    )
    return clone, model


def test_clone_function_wraps_chosen_layers():
    clone, model = chosen_layers()
    np.testing.assert_allclose(clone(DATA[0]), model(DATA[0]), rtol=1e-5, atol=1e-6)
    history = train(clone)
    assert history["snap"][-1] == 1
    assert history["num_components"][0] == 4
    plain = sws.strip_soft_weight_sharing(clone)
    assert [type(x).__name__ for x in plain.layers] == ["Dense", "Dense"]
    np.testing.assert_allclose(plain(DATA[0]), clone(DATA[0]), rtol=1e-5, atol=1e-6)
    assert distinct(plain)[0] <= 4 < distinct(plain)[1]


def test_stripping_keeps_what_normalization_was_adapted_to(rng):
    x = (1000 * rng.random((200, 3)) + [0, 500, 9000]).astype("float32")
    normalize = tf_keras.layers.Normalization()
    normalize.adapt(x)
    dense = wrap(tf_keras.layers.Dense(16))
    model = tf_keras.Sequential([tf_keras.Input((3,)), normalize, dense])
    dense.sharing.snap.assign(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It was never trained.
        plain = sws.strip_soft_weight_sharing(model)
    np.testing.assert_allclose(plain(x), model(x), rtol=1e-4, atol=1e-5)


def test_layers_may_be_wrapped_before_they_are_built():
    model = tf_keras.Sequential(
        [tf_keras.Input((10,)), wrap(tf_keras.layers.Dense(16)), tf_keras.layers.Dense(3)]
    )
    train(model)
    assert distinct(sws.strip_soft_weight_sharing(model))[0] <= 4


def test_fit_without_sensitivities_warns():
    model, _ = chosen_layers()
    model.compile("adam", loss="mse")
    with pytest.warns(UserWarning, match="measure_sensitivity"):
        model.fit(*DATA, epochs=2, verbose=0, callbacks=[sws.AnnealAndMerge()])


def test_fit_with_components_own_widths_needs_no_sensitivities():
    options = sws.PriorOptions(assignment_width=0.0)
    layer = tf_keras.layers.Dense(3)
    shared = sws.apply_soft_weight_sharing(layer, **{**SETTINGS, "options": options})
    model = tf_keras.Sequential([tf_keras.Input((6,)), shared])
    model.compile("adam", "mse")
    x = np.ones((8, 6), "float32")
    model.fit(x, x[:, :3], epochs=10, verbose=0, callbacks=[sws.AnnealAndMerge()])


def test_a_list_of_layers():
    layers = wrap(
        [tf_keras.Input((10,)), *sequential(tf_keras).layers, tf_keras.layers.ReLU()][1:]
    )
    model = tf_keras.Sequential([tf_keras.Input((10,)), *layers])
    # Two epochs while the pull sets in need not lower the loss.
    assert train(model)["snap"][-1] == 1
    plain = sws.strip_soft_weight_sharing(model)
    assert max(distinct(plain)) <= 4
    assert type(plain.layers[-1]) is tf_keras.layers.ReLU


def test_recurrent_layer_in_a_nested_model():
    inner = tf_keras.Sequential([tf_keras.Input((6, 4)), wrap(tf_keras.layers.LSTM(5))])
    inputs = tf_keras.Input((6, 4))
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(3)(inner(inputs)))
    data = make_data("recurrent", np.random.default_rng(0))
    train(model, data)
    plain = sws.strip_soft_weight_sharing(model)
    np.testing.assert_allclose(plain(data[0]), model(data[0]), rtol=1e-5, atol=1e-6)


class Subclassed(tf_keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x)


@pytest.mark.parametrize("kind", ["subclassed", "within another layer", "nested"])
def test_a_layer_that_could_not_be_stripped_is_told_before_training(kind):
    layer, x = wrap(tf_keras.layers.Dense(3, name="hidden")), np.ones((32, 5, 4), "float32")
    if kind == "subclassed":
        model = Subclassed(layer)
    elif kind == "nested":
        model = tf_keras.Sequential([tf_keras.Input((5, 4)), Subclassed(layer)])
    else:
        timed = tf_keras.layers.TimeDistributed(layer)
        model = tf_keras.Sequential([tf_keras.Input((5, 4)), timed])
    model.compile("adam", "mse")
    model.build((None, 5, 4))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"Layer 'hidden' of model .*Wrap the whole model: "):
        model.fit(x, x[..., :3], verbose=0, callbacks=[sws.AnnealAndMerge()])
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"Layer 'hidden' of model .*Wrap the whole model: "):
        sws.strip_soft_weight_sharing(model)


def test_a_layer_with_nothing_to_share_could_not_be_stripped_either():
    inner = tf_keras.layers.TimeDistributed(wrap(tf_keras.layers.ReLU(name="clip")))
    layers = [tf_keras.Input((5, 4)), wrap(tf_keras.layers.Dense(3)), inner]
    model, x = tf_keras.Sequential(layers), np.ones((32, 5, 4), "float32")
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match=r"Layer 'clip' of model .*Wrap the whole model: "):
        model.fit(x, x[..., :3], verbose=0, callbacks=[sws.AnnealAndMerge()])
    with pytest.raises(ValueError, match=r"Layer 'clip' of model .*Wrap the whole model: "):
        sws.strip_soft_weight_sharing(model)


class Student(tf_keras.Model):
    """A Functional model with a constructor of its own."""

    def __init__(self, units):
        inputs = tf_keras.Input((10,))
        super().__init__(inputs, wrap(tf_keras.layers.Dense(units))(inputs))


def test_a_student_within_a_subclassed_model_is_stripped_by_itself():
    class Outer(tf_keras.Model):
        def __init__(self, student):
            super().__init__()
            self.student = student

        def call(self, x, training=None):
            return self.student(x, training=training)

    model = Outer(Student(3))
    train(model)
    plain = sws.strip_soft_weight_sharing(model.student)
    outputs = plain.predict(DATA[0], verbose=0)
    np.testing.assert_allclose(outputs, model.predict(DATA[0], verbose=0), rtol=1e-5)
    with pytest.raises(ValueError, match=r"lies in a subclassed model"):
        sws.strip_soft_weight_sharing(model)


def test_train_size_is_asked_for():
    with pytest.raises(ValueError, match=r"must be given.*train_size="):
        sws.apply_soft_weight_sharing(tf_keras.layers.Dense(3))


# tf_keras recommends its newer format.
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model"])
def test_saved_and_loaded_in_the_scope(name, tmp_path):
    clone, _ = chosen_layers()
    train(clone)
    clone.save(tmp_path / name)
    with sws.soft_weight_sharing_scope():
        loaded = tf_keras.models.load_model(tmp_path / name)
    np.testing.assert_allclose(loaded(DATA[0]), clone(DATA[0]), rtol=1e-5, atol=1e-6)
    first, second = map(sws.strip_soft_weight_sharing, (clone, loaded))
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    train(loaded, epochs=1)


# Schedules and layers of tfmot.


def test_schedules_of_tfmot_say_when():
    polynomial = tfmot.sparsity.keras.PolynomialDecay(
        0.0, 0.8, begin_step=4, end_step=8, power=1
    )
    constant = tfmot.sparsity.keras.ConstantSparsity(0.5, begin_step=8)
    model = sws.apply_soft_weight_sharing(sequential(tf_keras), complexity_weight=1e-3)
    callback = sws.AnnealAndMerge(snap=polynomial, complexity=constant)
    model.compile("adam", loss="mse")
    model.fit(*DATA, epochs=3, batch_size=8, verbose=0, callbacks=[callback])
    assert [callback.snap(f) for f in (0, 4 / 12, 0.5, 8 / 12, 1)] == pytest.approx(
        [0, 0, 0.5, 1, 1]
    )
    assert [callback.complexity(f) for f in (0, 0.5, 8 / 12, 1)] == [0, 0, 1, 1]
    assert float(model.snap.numpy()) == 1


class Clusterable(tf_keras.layers.Dense, tfmot.clustering.keras.ClusterableLayer):
    def get_clusterable_weights(self):
        return [("bias", self.bias)]


class Prunable(tf_keras.layers.Dense, tfmot.sparsity.keras.PrunableLayer):
    def get_prunable_weights(self):
        return [self.kernel]


@pytest.mark.parametrize(("kind", "taken"), [(Clusterable, "bias"), (Prunable, "kernel")])
def test_layers_name_their_weights(kind, taken):
    model = tf_keras.Sequential([tf_keras.Input((10,)), kind(3)])
    shared = sws.apply_soft_weight_sharing(model)
    assert [c.path.rpartition("/")[2] for c in shared.weight_choices if c.shared] == [taken]
    assert {c.reason for c in shared.weight_choices} == {
        "named by its layer",
        "not named by its layer",
    }
