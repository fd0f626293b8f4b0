"""A wrapped model within another: a distiller, or a model that goes on from it."""

import keras
import numpy as np
import pytest
import tf_keras
from families import RANDOM_NETWORKS
from keras import ops

import tfmot_sws as sws
from tfmot_sws import visualization

pytestmark = [
    RANDOM_NETWORKS,
    # `fit` of the outer model is Keras' own.
    pytest.mark.filterwarnings("ignore:How sensitive the error is:UserWarning"),
]
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
LIBRARIES = [keras, tf_keras] if ON_TENSORFLOW else [keras]
NUM_VALUES = 4


def network(library):
    layers = library.layers
    return library.Sequential(
        [library.Input((4,)), layers.Dense(8, activation="relu"), layers.Dense(2)],
        name="inside",
    )


def wrap(library, **settings):
    settings = {"num_components": NUM_VALUES, "train_size": 64, **settings}
    return sws.apply_soft_weight_sharing(network(library), **settings)


def chain(library, shared):
    return library.Sequential([library.Input((4,)), library.layers.Rescaling(0.5), shared])


def distiller(library, shared):
    teacher = network(library)

    class Distiller(library.Model):
        """Trains a student to answer as a teacher does."""

        def __init__(self):
            super().__init__()
            self.student, self.teacher = shared, teacher

        def call(self, inputs, training=None):
            return self.student(inputs, training=training)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
            answers = self.teacher(x)
            return loss + ((answers - y_pred) * (answers - y_pred))[0, 0]

    return Distiller()


def keras_distiller(_, shared):
    return keras.distillation.Distiller(
        teacher=network(keras),
        student=shared,
        distillation_losses=keras.distillation.LogitsDistillation(),
    )


OUTERS = [(library, make) for library in LIBRARIES for make in (chain, distiller)]
if hasattr(keras, "distillation"):
    OUTERS.append((keras, keras_distiller))


@pytest.fixture(
    scope="module", params=OUTERS, ids=lambda pair: f"{pair[0].__name__}-{pair[1].__name__}"
)
def outer(request):
    """The outer model after a training, the wrapped one, inputs, and the library."""
    keras.utils.set_random_seed(0)
    library, make = request.param
    shared = wrap(library)
    model = make(library, shared)
    model.compile(optimizer="adam", loss="mse")
    x = np.random.default_rng(0).standard_normal((64, 4)).astype("float32")
    history = model.fit(
        x, x[:, :2], epochs=4, batch_size=8, verbose=0, callbacks=[sws.AnnealAndMerge()]
    ).history
    assert history["complexity_loss"][-1] != 0
    return model, shared, x, library


def test_the_inner_model_is_stripped_with_what_it_computes(outer):
    model, shared, x, _ = outer
    plain = sws.strip_soft_weight_sharing(shared)
    inputs = 0.5 * x if isinstance(model, keras.Sequential | tf_keras.Sequential) else x
    np.testing.assert_allclose(
        plain.predict(inputs, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )
    assert all(np.unique(w).size <= NUM_VALUES for w in plain.get_weights() if w.ndim > 1)


def test_the_outer_model_is_refused_with_the_name_of_the_inner_one(outer, tmp_path):
    model, _, x, _ = outer
    before = [np.array(ops.convert_to_numpy(w)) for w in model.get_weights()]
    for use in (
        sws.strip_soft_weight_sharing,
        sws.convert_to_tflite,
        lambda model: sws.export(model, tmp_path / "model.tflite"),
        lambda model: sws.save_compressed(model, tmp_path / "model.sws"),
        sws.compression_report,
        sws.coded_sizes,
        sws.get_codebooks,
        sws.fold_batch_norm,
        sws.place_on_int8_grid,
        sws.apply_soft_weight_sharing,
        visualization.read_weights,
        lambda model: sws.measure_sensitivity(model, x, x[:, :2]),
        lambda model: model.fit(
            x, x[:, :2], verbose=0, callbacks=[sws.ParetoFront(tmp_path / "front")]
        ),
    ):
        with pytest.raises(TypeError, match="holds the wrapped model 'soft_weight_sharing_in"):
            use(model)
    assert not list(tmp_path.iterdir())
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_outer_model_is_built_around_the_plain_one(outer):
    model, shared, x, library = outer
    if not isinstance(model, library.Sequential):
        pytest.skip("one kind is enough")
    around = chain(library, sws.strip_soft_weight_sharing(shared))
    np.testing.assert_allclose(
        around.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )
    assert sws.get_codebooks(around)


def test_without_the_callback_strip_names_it(rng):
    shared = wrap(keras)
    model = chain(keras, shared)
    model.compile("sgd", "mse")
    x = rng.standard_normal((64, 4)).astype("float32")
    model.fit(x, x[:, :2], verbose=0)
    with pytest.raises(ValueError, match="no AnnealAndMerge was among its callbacks"):
        sws.strip_soft_weight_sharing(shared)


@pytest.mark.filterwarnings("ignore:The file will take:UserWarning")
def test_a_stated_size_is_that_of_the_inner_model(rng, tmp_path):
    shared = wrap(keras, target_bits=2.0)
    model = chain(keras, shared)
    model.compile("adam", "mse")
    x = rng.standard_normal((64, 4)).astype("float32")
    logs = model.fit(x, x[:, :2], verbose=0, callbacks=[sws.AnnealAndMerge()]).history
    assert logs["target_ratio"][-1] > 1
    sws.save_compressed(sws.strip_soft_weight_sharing(shared), tmp_path / "model.sws")
    assert shared.sharing.control.size == (tmp_path / "model.sws").stat().st_size


def test_two_stated_sizes_in_one_fit_are_refused(rng):
    inputs = keras.Input((4,))
    parts = []
    for name in ("one", "two"):
        part = keras.Sequential([keras.Input((4,)), keras.layers.Dense(90)], name=name)
        parts.append(sws.apply_soft_weight_sharing(part, target_bits=2.0, train_size=16))
    model = keras.Model(inputs, [part(inputs) for part in parts])
    model.compile("sgd", ["mse", "mse"])
    x = rng.standard_normal((16, 4)).astype("float32")
    with pytest.raises(ValueError, match=r"size of one wrapped model can be stated.*_one', '"):
        model.fit(x, [np.tile(x[:, :2], 45)] * 2, verbose=0, callbacks=[sws.AnnealAndMerge()])
