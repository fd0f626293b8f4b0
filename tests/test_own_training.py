"""Models that have a loss, metrics or a training step of their own."""

import keras
import numpy as np
import pytest
import tf_keras
from families import GENTLE, RANDOM_NETWORKS
from keras import layers, ops

import tfmot_sws as sws

pytestmark = RANDOM_NETWORKS
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
LIBRARIES = [keras, tf_keras] if ON_TENSORFLOW else [keras]


@keras.saving.register_keras_serializable(package="tfmot_sws_tests")
class Autoencoder(keras.Model):
    """Compiled without a loss; its own loss calls a layer again, and fills a metric."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder = layers.Dense(4)
        self.decoder = layers.Dense(6)
        self.code_size = keras.metrics.Mean(name="code_size")

    def build(self, input_shape):
        self.encoder.build(input_shape)
        self.decoder.build((None, 4))
        self.built = True

    def call(self, inputs):
        return self.decoder(self.encoder(inputs))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        size = ops.mean(ops.square(self.encoder(x)))
        self.code_size.update_state(size)
        return ops.mean(ops.square(ops.subtract(y_pred, x))) + 0.5 * size


@keras.saving.register_keras_serializable(package="tfmot_sws_tests")
class Counting(keras.Sequential):
    """With metrics of its own beside those that it is compiled with."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**logs, "twice": 2 * logs["mae"]}


@pytest.fixture
def x(rng):
    return rng.standard_normal((32, 6)).astype("float32")


def wrap(model, **kwargs):
    shared = sws.apply_soft_weight_sharing(model, **GENTLE)
    shared.compile(keras.optimizers.Adam(0.01), **kwargs)
    return shared


def test_own_loss_trains(x, tmp_path):
    keras.utils.set_random_seed(0)
    model = Autoencoder()
    model(x)
    shared = wrap(model)
    callbacks = [sws.AnnealAndMerge()]
    logs = shared.fit(x, batch_size=8, epochs=12, verbose=0, callbacks=callbacks).history
    assert logs["error_loss"][-1] < 0.8 * logs["error_loss"][0]
    plain = sws.strip_soft_weight_sharing(shared)
    size = np.mean(np.square(ops.convert_to_numpy(plain.encoder(x))))
    error = np.mean(np.square(plain.predict(x, verbose=0) - x)) + 0.5 * size
    measured = shared.evaluate(x, verbose=0, return_dict=True)
    assert measured["loss"] == pytest.approx(error, rel=1e-4)
    # The loss runs on snapped weights as the call does.
    assert measured["code_size"] == pytest.approx(size, rel=1e-4)
    shared.save(tmp_path / "shared.keras")
    loaded = keras.models.load_model(tmp_path / "shared.keras")
    assert loaded.evaluate(x, verbose=0) == pytest.approx(shared.evaluate(x, verbose=0))


def test_own_loss_in_a_step_equals_the_plain_one(x):
    def build():
        keras.utils.set_random_seed(0)
        model = Autoencoder()
        model(x)
        return model

    plain = build()
    plain.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    plain.train_on_batch(x)
    shared = sws.apply_soft_weight_sharing(build(), complexity_weight=1e-9, train_size=32)
    shared.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    shared.train_on_batch(x)
    for one, other in zip(shared.inner.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_own_metrics_are_used(x):
    model = Counting([keras.Input((6,)), layers.Dense(6)])
    shared = wrap(model, loss="mse", metrics=["mae"], run_eagerly=True)
    logs = shared.evaluate(x, x, verbose=0, return_dict=True)
    outputs = shared.predict(x, verbose=0)
    assert logs["twice"] == pytest.approx(2 * np.mean(np.abs(outputs - x)), rel=1e-5)
    assert logs["loss"] == pytest.approx(np.mean(np.square(outputs - x)), rel=1e-5)


@keras.saving.register_keras_serializable(package="tfmot_sws_tests")
class Measured(layers.Dense):
    """Writes the mean of its outputs to a metric when it is called."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.mean = keras.metrics.Mean(name="outputs")

    def call(self, inputs):
        outputs = super().call(inputs)
        self.mean.update_state(outputs)
        return outputs


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="JAX' trainer drops them of plain models too"
)
def test_metric_of_a_layer_is_filled(x):
    shared = wrap(
        keras.Sequential([keras.Input((6,)), Measured(6)]), loss="mse", run_eagerly=True
    )
    logs = shared.evaluate(x, x, verbose=0, return_dict=True)
    expected = np.mean(shared.predict(x, verbose=0))
    assert logs["outputs"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def unused(*_args, **_kwargs):
    raise AssertionError


def own_step(library, method, **arguments):
    class Own(library.Model):
        pass

    setattr(Own, method, unused)
    inputs = library.Input((6,))
    return Own(inputs, library.layers.Dense(6)(inputs), **arguments)


@pytest.mark.parametrize(
    ("library", "method"),
    [
        *((keras, name) for name in ("train_step", "test_step", "predict_step", "fit")),
        *((tf_keras, name) for name in ("train_step", "compute_loss") if ON_TENSORFLOW),
    ],
)
def test_own_steps_are_refused_at_once(library, method):
    with pytest.raises(ValueError, match=f"has its own {method}, which would be ignored"):
        sws.apply_soft_weight_sharing(own_step(library, method, name="own"))


@pytest.mark.parametrize("library", LIBRARIES)
def test_complexity_alone_is_no_loss(library, x):
    model = library.Sequential([library.Input((6,)), library.layers.Dense(6)])
    shared = sws.apply_soft_weight_sharing(model, **GENTLE)
    shared.compile(library.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="no loss but the complexity loss"):
        shared.fit(x, x, epochs=2, verbose=0, callbacks=[sws.AnnealAndMerge()])


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_loss_added_in_the_call_is_enough(library, x):
    layer = library.layers.Dense(6, activity_regularizer=library.regularizers.L2(0.1))
    shared = sws.apply_soft_weight_sharing(
        library.Sequential([library.Input((6,)), layer]), **GENTLE
    )
    shared.compile(library.optimizers.SGD(0.1))
    logs = shared.fit(
        x, epochs=4, batch_size=8, verbose=0, callbacks=[sws.AnnealAndMerge()]
    ).history
    assert logs["error_loss"][0] > 0


class Normalised(layers.Dense):
    """Scales its own kernel to length 1 when it is called."""

    def call(self, inputs):
        self.kernel.assign(self.kernel / ops.norm(self.kernel))
        return super().call(inputs)


def test_a_layer_that_assigns_its_shared_weight_is_named(x):
    model = keras.Sequential([keras.Input((6,)), Normalised(6, name="unit"), layers.Dense(6)])
    shared = sws.apply_soft_weight_sharing(model, **GENTLE)
    with pytest.raises(ValueError, match=r"weight '.*unit/kernel'.*exclude='.*unit/kernel'"):
        shared(x)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="tf_keras")
def test_a_layer_of_tf_keras_that_assigns_its_shared_weight_is_told(x):
    class Unit(tf_keras.layers.Dense):
        def call(self, inputs):
            self.kernel.assign(self.kernel / 2.0)
            return super().call(inputs)

    model = tf_keras.Sequential([tf_keras.Input((6,)), Unit(6)])
    shared = sws.apply_soft_weight_sharing(model, **GENTLE)
    with pytest.raises(ValueError, match=r"(?s)assigns its own weight.*exclude="):
        shared(x)


def test_what_a_layer_assigns_to_an_unshared_weight_stays(x):
    model = keras.Sequential([keras.Input((6,)), Normalised(6, name="unit"), layers.Dense(6)])
    shared = sws.apply_soft_weight_sharing(model, exclude="unit/kernel", **GENTLE)
    shared(x)
    kernel = model.get_layer("unit").get_weights()[0]
    assert np.linalg.norm(kernel) == pytest.approx(1.0, rel=1e-5)


def two_outputs(library):
    inputs = library.Input((6,))
    outputs = [
        library.layers.Dense(size, name=name)(inputs) for name, size in (("a", 3), ("b", 2))
    ]
    return library.Model(inputs, outputs)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("by_name", [True, False])
def test_losses_and_metrics_of_a_list_of_outputs(library, by_name, x):
    losses, metrics, y = ["mse", "mae"], [["mae"], ["mse"]], [x[:, :3], x[:, :2]]
    if by_name:
        losses, metrics, y = (
            dict(zip("ab", part, strict=True)) for part in (losses, metrics, y)
        )
    model = two_outputs(library)
    # The wrapped model's metrics of an earlier compile stay out of the logs.
    model.compile("sgd", losses, metrics=metrics)
    expected = model.evaluate(x, y, verbose=0, return_dict=True)
    shared = sws.apply_soft_weight_sharing(model, **GENTLE)
    shared.compile("sgd", losses, metrics=metrics)
    logs = shared.evaluate(x, y, verbose=0, return_dict=True)
    assert set(logs) == {"loss", "a_loss", "b_loss", "a_mae", "b_mse"}
    assert logs == pytest.approx(expected, rel=1e-5)
