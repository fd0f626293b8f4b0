"""What is said of a model at wrapping: clustered, trained before, or mostly frozen."""

import warnings

import keras
import numpy as np
import pytest
import tf_keras

import tfmot_sws as sws

FEW = np.float32([0, -0.2, 0.1, 0.4])


@pytest.fixture(params=[keras, tf_keras])
def library(request):
    return request.param


def network(library, **first):
    layers = library.layers
    return library.Sequential(
        [library.Input((30,)), layers.Dense(30, **first), layers.Dense(20)], name="net"
    )


def fill(model, values_of):
    for layer in model.layers:
        shape = tuple(layer.kernel.shape)
        layer.kernel.assign(np.float32(values_of(shape)))
    return model


def remarks(model, **settings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sws.apply_soft_weight_sharing(model, **settings)
    return [str(w.message) for w in caught if w.category is sws.SoftWeightSharingWarning]


def test_a_clustered_model_is_told_once(library, rng):
    model = fill(network(library), lambda shape: rng.choice(FEW, shape))
    (remark,) = remarks(model)
    assert "2 of the 2 larger weight tensors of 'net' hold few values" in remark
    assert "3 besides zero in 900 weights" in remark
    assert "load the dense model" in remark


def test_the_warning_is_on_the_line_of_the_user(rng):
    model = fill(network(keras), lambda shape: rng.choice(FEW, shape))
    with pytest.warns(UserWarning, match="clustered already") as caught:
        sws.apply_soft_weight_sharing(model)
    places = [w.filename for w in caught if w.category is sws.SoftWeightSharingWarning]
    assert places == [__file__]


RNG = np.random.default_rng(0)


def pruned(shape):
    return RNG.standard_normal(shape) * (RNG.random(shape) < 0.5)


def few_nonzero(shape):
    """So few weights that are not zero prove nothing."""
    return np.where(np.arange(np.prod(shape)) % 40, 0, 0.5).reshape(shape)


@pytest.mark.parametrize(
    "values_of",
    [RNG.standard_normal, pruned, np.zeros, np.ones, lambda s: np.eye(*s), few_nonzero],
)
def test_no_alarm(library, values_of):
    assert remarks(fill(network(library), values_of)) == []


def test_half_of_the_tensors_are_not_most(rng):
    model = network(keras)
    model.layers[0].kernel.assign(rng.choice(FEW, (30, 30)))
    assert remarks(model) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_no_alarm_on_short_floats(dtype):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(300, dtype=dtype)])
    assert remarks(model) == []


def test_a_cell_run_again_after_the_training_is_told(library, rng):
    model, x = network(library), rng.standard_normal((64, 30)).astype("float32")
    first = sws.apply_soft_weight_sharing(model)
    assert remarks(model) == []  # Nothing was trained in between.
    first = sws.apply_soft_weight_sharing(model)
    first.compile("sgd", "mse")
    first.fit(x, x[:, :20], batch_size=8, verbose=0, callbacks=[sws.AnnealAndMerge()])
    (remark,) = remarks(model)
    assert "trained for 8 steps" in remark


def test_a_wrapped_model_says_what_to_load(library):
    shared = sws.apply_soft_weight_sharing(network(library))
    with pytest.raises(ValueError, match=r"already under soft weight-sharing.*load the dense"):
        sws.apply_soft_weight_sharing(shared)


def test_a_frozen_backbone_is_told(library):
    (remark,) = remarks(network(library, trainable=False))
    # 900 of 900 + 30 + 600 + 20 weights, and the frozen bias.
    assert "Only 620 of the 1,550 weights of 'net' are shared (40.0%): 900 are" in remark
    assert "about 3,600 bytes" in remark
    assert "1.7 times smaller" in remark


def test_a_smaller_frozen_part_or_an_excluded_one_is_not(library):
    model = network(library)
    model.layers[1].trainable = False
    assert remarks(model) == []
    first = model.layers[0].name
    model.layers[1].trainable = True
    assert remarks(model, exclude=first + "/") == []


def test_a_few_frozen_weights_are_not(library):
    layers = library.layers
    first = layers.Dense(3, trainable=False)
    model = library.Sequential([library.Input((4,)), first, layers.Dense(2)])
    assert remarks(model) == []


def test_a_model_whose_weights_were_put_back_is_as_good_as_new(library):
    model = network(library)
    weights, kept = model.get_weights(), []
    assert wrap_and_train(model, kept) == []
    assert "trained for 100 steps" in wrap_and_train(model, kept)[0]
    model.set_weights(weights)
    assert wrap_and_train(model, kept) == []


def wrap_and_train(model, kept):
    """What is said at wrapping; the wrapper is kept, and trains the weights."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shared = sws.apply_soft_weight_sharing(model)
    kept.append(shared)
    shared.sharing.steps.assign(100.0)
    model.layers[0].kernel.assign(model.layers[0].kernel * 1.5)
    return [str(w.message) for w in caught if w.category is sws.SoftWeightSharingWarning]
