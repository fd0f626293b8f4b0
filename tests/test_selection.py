"""Which variables are shared, why, in which groups, and the check for NaN."""

import keras
import numpy as np
import pytest
import tf_keras
from families import FAMILIES, functional, nested, sequential

import tfmot_sws as sws
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


# What is no weight of a product.


class Bits(keras.layers.Layer):
    """A product with a matrix and a bit width for each of its weights."""

    def build(self, input_shape):
        self.w = self.add_weight(name="w", shape=(4, 3))
        self.bits = self.add_weight(name="kernel_quantizer_bits", shape=(4, 3))
        self.gain = self.add_weight(name="gain", shape=(1, 1, 3))

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.w * self.bits) * self.gain[0]


def reasons_of(model):
    return {c.path.rpartition("/")[2]: c.reason for c in choose_weights(model, None, None)}


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_slopes_are_no_kernels(library):
    model = library.Sequential(
        [library.Input((4, 4, 3)), library.layers.Conv2D(2, 1), library.layers.PReLU()]
    )
    reasons = reasons_of(model)
    assert reasons["kernel"] == "kernel"
    assert reasons["alpha"] == "'alpha' of PReLU, no weight of a product"


def test_bit_widths_and_broadcast_factors_of_own_layers_are_no_kernels():
    reasons = reasons_of(keras.Sequential([keras.Input((4,)), Bits()]))
    assert reasons["w"] == "kernel"
    assert "no weight of a product" in reasons["gain"]
    assert "no weight of a product" in reasons["kernel_quantizer_bits"]


def test_a_constraint_is_kept_by_not_sharing():
    layer = keras.layers.Dense(3, kernel_constraint="unit_norm")
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(2, name="free")])
    first, *_, last = choose_weights(model, None, None)
    assert first.reason == "has the constraint UnitNorm, which shared values would not keep"
    assert last.shared
    assert choose_weights(model, "kernel", None)[0].shared


def test_a_constraint_in_tf_keras():
    layer = tf_keras.layers.Dense(3, kernel_constraint="max_norm")
    model = tf_keras.Sequential([tf_keras.Input((4,)), layer, tf_keras.layers.Dense(2)])
    assert [c.shared for c in choose_weights(model, None, None)] == [False, True, True, True]


def test_what_spectral_normalization_assigns_is_not_shared():
    inner = keras.layers.Dense(3)
    wrapper = keras.layers.SpectralNormalization(inner)
    model = keras.Sequential([keras.Input((4,)), wrapper, keras.layers.Dense(2)])
    x = np.ones((2, 4), "float32")
    shared = sws.apply_soft_weight_sharing(model, train_size=2)
    assert reasons_of(model)["kernel"] == "kernel"
    assert sum("SpectralNorm" in c.reason for c in shared.weight_choices) == 1
    for _ in range(9):
        shared(x, training=True)
    norm = np.linalg.norm(keras.ops.convert_to_numpy(inner.kernel), 2)
    assert norm == pytest.approx(1.0, rel=1e-2)


# Two towers.


def towers(library):
    def tower(name):
        inputs = library.Input((4,))
        hidden = library.layers.Dense(5, name="dense")(inputs)
        return library.Model(inputs, library.layers.Dense(2, name="head")(hidden), name=name)

    user, item = library.Input((4,)), library.Input((4,))
    products = library.layers.Dot(1)([tower("user")(user), tower("item")(item)])
    return library.Model([user, item], products)


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_layers_of_the_same_name_in_two_models_are_told_apart(library):
    model = towers(library)
    shared = sws.apply_soft_weight_sharing(model, num_components=3)
    assert len(shared.groups) == 4
    assert len({c.path for c in shared.weight_choices}) == 8
    only_item = choose_weights(model, None, "user")
    assert [c.shared for c in only_item] == [False] * 4 + [True] * 4
    shared.snap.assign(1.0)
    small = sws.strip_soft_weight_sharing(shared)
    kernels = [path for path in sws.get_codebooks(small) if path.endswith("kernel")]
    assert sorted(path.split("/")[0] for path in kernels) == ["item", "item", "user", "user"]
    report = sws.compression_report(small)
    assert {t.path for t in report.tensors} == {c.path for c in shared.weight_choices}


@pytest.mark.parametrize("name", ["include", "exclude"])
def test_an_expression_that_matches_nothing_says_what_would(name):
    selectors = {"include": None, "exclude": None, name: "head/"}
    with pytest.raises(ValueError, match=f"{name}='head/' matches none") as caught:
        choose_weights(small_model(), **selectors)
    assert "first/kernel" in str(caught.value)
    assert f"or leave {name}= out" in str(caught.value)


def test_of_many_paths_a_few_are_shown():
    model = keras.Sequential([keras.Input((2,)), *(keras.layers.Dense(2) for _ in range(6))])
    with pytest.raises(ValueError, match="and 4 more") as caught:
        choose_weights(model, None, "head/")
    assert str(caught.value).count("/kernel") == 4
