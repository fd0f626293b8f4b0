"""Which variables are shared, why, in which groups, and the check for NaN."""

import keras
import numpy as np
import pytest
from families import FAMILIES, functional, nested, sequential

from tfmot_sws.models.selection import check_finite, choose_weights, group_by_scope


def names(choices):
    """Layer and variable of what is shared."""
    return ["/".join(c.path.split("/")[-2:]) for c in choices if c.shared]


def small_model():
    """Two dense layers and a normalisation, with names that tests can rely on."""
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(5, name="first"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Dense(2, name="second"),
    ]
    return keras.Sequential(layers)


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (None, None, ["first/kernel", "first/bias", "second/kernel", "second/bias"]),
        (None, "first", ["second/kernel", "second/bias"]),
        (None, lambda v: v.shape[0] == 5, ["first/kernel", "second/bias"]),
        ("second", None, ["second/kernel", "second/bias"]),
        (r"first/(kernel|bias)$", None, ["first/kernel", "first/bias"]),
        ("first|second", "bias", ["first/kernel", "second/kernel"]),
        (lambda v: v.name == "bias", None, ["first/bias", "second/bias"]),
        (lambda _: True, lambda v: v.name != "gamma", ["norm/gamma"]),
    ],
)
def test_include_and_exclude(include, exclude, expected):
    assert names(choose_weights(small_model(), include, exclude)) == expected


def test_one_choice_a_variable_in_order():
    model = small_model()
    choices = choose_weights(model, None, None)
    assert [c.path for c in choices] == [v.path for v in model.weights]
    assert [c.shape for c in choices] == [tuple(v.shape) for v in model.weights]


@pytest.mark.parametrize("family", FAMILIES)
def test_default_takes_kernels_and_no_normalisation(family):
    model = FAMILIES[family].build()
    shared = {c.path for c in choose_weights(model, None, None) if c.shared}
    trainable = [v for v in model.trainable_weights if "bias" not in v.name]
    normalisation = {v.path for v in trainable if v.name in ("gamma", "beta")}
    assert {v.path for v in trainable} - normalisation <= shared
    assert not shared & (normalisation | {v.path for v in model.non_trainable_weights})


@pytest.mark.parametrize(("factor", "shared"), [(-0.9, True), (0.9, True), (1.1, False)])
def test_biases_must_lie_within_the_range_of_the_kernels(factor, shared):
    model = small_model()
    first, second = model.get_layer("first"), model.get_layer("second")
    reach = max(np.abs(layer.kernel).max() for layer in (first, second))
    second.bias.assign([0.0, factor * reach])
    choice = choose_weights(model, None, None)[-1]
    assert choice.shared is shared
    assert choice.reason == f"bias, {'within' if shared else 'beyond'} the range of the kernels"


def test_reasons_of_the_default():
    model = small_model()
    model.get_layer("second").trainable = False
    choices = choose_weights(model, None, "first/bias")
    reasons = {"/".join(c.path.split("/")[-2:]): c.reason for c in choices}
    assert reasons["first/kernel"] == "kernel"
    assert reasons["first/bias"] == "excluded by exclude="
    assert reasons["norm/gamma"] == reasons["norm/beta"] == "neither kernel nor bias"
    assert reasons["norm/moving_mean"] == reasons["second/kernel"] == "not trainable"


def test_reasons_with_include():
    choices = choose_weights(small_model(), "kernel", "second")
    reasons = {"/".join(c.path.split("/")[-2:]): c.reason for c in choices}
    assert reasons["first/kernel"] == "taken by include="
    assert reasons["first/bias"] == "not taken by include="
    assert reasons["second/kernel"] == "excluded by exclude="
    assert reasons["norm/moving_mean"] == "not trainable"


def test_integers_and_empty_variables_are_not_shared():
    class Odd(keras.layers.Layer):
        def build(self, input_shape):
            self.add_weight(name="codes", shape=(2, 2), dtype="int32", initializer="zeros")
            self.add_weight(name="nothing", shape=(0, 3))
            self.add_weight(name="kernel", shape=(2, 2))

        def call(self, inputs):
            return inputs

    model = keras.Sequential([keras.Input((2,)), Odd()])
    choices = {c.path.split("/")[-1]: c for c in choose_weights(model, "", None)}
    assert choices["codes"].reason == "not floating point (int32)"
    assert choices["nothing"].reason == "empty"
    assert choices["kernel"].shared


def test_nothing_left_lists_every_variable():
    with pytest.raises(ValueError, match="no weights to share") as caught:
        choose_weights(small_model(), None, "kernel|bias")
    assert str(caught.value).count("\n  ") == len(small_model().weights)


@pytest.mark.parametrize("selector", ["(", 3])
@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_invalid_selector(argument, selector):
    arguments = {"include": None, "exclude": None, argument: selector}
    with pytest.raises(ValueError, match=f"{argument} must be a regular expression"):
        choose_weights(small_model(), **arguments)


# Groups.


def test_scope_model_is_one_group():
    choices = choose_weights(small_model(), None, None)
    assert group_by_scope(choices, "model") == [[0, 1, 6, 7]]


def test_scope_layer_is_one_group_a_layer():
    choices = choose_weights(small_model(), "kernel|bias|gamma", None)
    assert group_by_scope(choices, "layer") == [[0, 1], [2], [6, 7]]


def test_other_scopes_are_turned_down():
    with pytest.raises(ValueError, match="scope must be 'model' or 'layer'; received 'all'"):
        group_by_scope([], "all")


# Finite weights.


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_check_finite_names_the_variable(bad):
    model = small_model()
    bias = model.get_layer("second").bias
    bias.assign([bad, 1.0])
    with pytest.raises(ValueError, match=r"'.*second/bias' of model '.*' holds 1 NaN or inf"):
        check_finite(model)


@pytest.mark.parametrize("build", [sequential, functional, nested])
def test_check_finite_passes_healthy_models(build):
    check_finite(build())


class NamesItsWeights(keras.layers.Dense):
    def get_clusterable_weights(self):
        return [("bias", self.bias)]


def test_layers_name_their_weights_as_tfmot_asks_them():
    model = keras.Sequential([keras.Input((4,)), NamesItsWeights(3), keras.layers.Dense(2)])
    shared = [c.shared for c in choose_weights(model, None, None)]
    assert shared == [False, True, True, True]
    assert [c.shared for c in choose_weights(model, "kernel", None)] == [True, False] * 2
