"""Every format for every model family, and what the files hold."""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest
from families import FAMILIES, Family, sequential
from rounding import NUM_VALUES, cluster

import tfmot_sws as sws
from tfmot_sws.litert import formats
from tfmot_sws.litert.file import constants, parse, stored_tensors
from tfmot_sws.litert.interpreter import run_tflite
from tfmot_sws.litert.shared_integers import share_integers
from tfmot_sws.models.batch_norm import foldable

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "lenet_mnist.py"
EXACT = 1e-4
INTEGERS = ("int8_codebook", "int8")
TOLERANCES = {
    "float32": EXACT,
    "float16": 1e-2,
    "int8_codebook": 0.1,
    "sparse": EXACT,
    "int8": 0.1,
}

pytestmark = [
    # Two families have BatchNorm behind a kernel; test_batch_norm.py tests the warning.
    pytest.mark.filterwarnings("ignore:BatchNorm layers:UserWarning"),
    # The families are small; sparse files of theirs are often no smaller.
    pytest.mark.filterwarnings("ignore:The float32 file:UserWarning"),
]


def lenets():
    spec = importlib.util.spec_from_file_location("lenet_mnist", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def images(generator):
        return generator.random((16, 28, 28, 1)).astype("float32")

    names = ("lenet-300-100", "lenet-5-caffe")
    return {name: Family(module.NETS[name], images, None) for name in names}


LENETS = lenets()


@pytest.fixture(scope="module", params=[*FAMILIES, *LENETS])
def clustered(request):
    """A name, a clustered model, and inputs for it."""
    keras.utils.set_random_seed(0)
    family = {**FAMILIES, **LENETS}[request.param]
    zeros = 0.9 if request.param in LENETS else 0.6
    inputs = family.make_inputs(np.random.default_rng(0))
    return request.param, cluster(family.build(), zeros), inputs


def large(tensors):
    """Those that are kernels for certain, not biases or constants of the graph."""
    return [t for t in tensors if len(t.shape) > 1 and t.size >= 100]


@pytest.mark.parametrize("weights", TOLERANCES)
def test_every_format_runs_and_agrees(clustered, weights):
    name, model, inputs = clustered
    tflite = sws.convert_to_tflite(model, weights, representative_data=inputs)
    verification = sws.verify_tflite(tflite, model, inputs)
    assert verification.difference <= TOLERANCES[weights]
    assert verification.agreement >= (1.0 if TOLERANCES[weights] == EXACT else 0.75)
    if name not in ("functional", "nested") or weights in INTEGERS:
        for tensor in large(verification.tensors):
            # The unrolled attention and recurrences have integer constants of their own.
            assert tensor.distinct_per_channel <= NUM_VALUES, tensor


def test_int8_codebook_equals_the_float_file(clustered):
    _, model, inputs = clustered
    exact = sws.convert_to_tflite(sws.place_on_int8_grid(model))
    small = sws.convert_to_tflite(model, "int8_codebook", sample=inputs)
    folds = hasattr(model, "inputs") and foldable(model)
    for a, b in zip(run_tflite(small, inputs), run_tflite(exact, inputs), strict=True):
        # Folding a BatchNorm rounds; all else is equal bit for bit.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max() if folds else 0)
    kernels = large(stored_tensors(small))
    # For fewer entries, an operator more takes as much as integers save.
    assert all(t.dtype == "int8" for t in kernels if t.size >= 160)
    assert max(t.distinct_per_channel for t in kernels if t.dtype == "int8") <= NUM_VALUES


@pytest.mark.parametrize("name", LENETS)
def test_sizes_of_the_lenets(name):
    model = cluster(LENETS[name].build(), zeros=0.9)
    files = {w: sws.convert_to_tflite(model, w) for w in TOLERANCES if w != "int8"}
    ratio = {w: len(file) / len(files["float32"]) for w, file in files.items()}
    assert ratio["float16"] < 0.51
    assert ratio["int8_codebook"] <= 0.27
    assert ratio["sparse"] < 0.2
    kernels = {w: large(stored_tensors(file)) for w, file in files.items()}
    assert all(t.distinct == NUM_VALUES for ts in kernels.values() for t in ts)
    assert {t.dtype for t in kernels["int8_codebook"]} == {"int8"}
    assert all(t.sparse for t in kernels["sparse"])
    zeros = {w: sum(t.zeros for t in ts) for w, ts in kernels.items()}
    assert set(zeros.values()) == {
        sum(int(np.sum(np.asarray(v) == 0)) for v in model.weights[::2])
    }


def test_channels_of_an_int8_file_share_integers(clustered):
    """With steps by which they are exactly the values on the grid."""
    _, model, inputs = clustered
    tflite = sws.convert_to_tflite(model, "int8", representative_data=inputs)
    kernels = [t for t in large(stored_tensors(tflite)) if t.dtype == "int8"]
    assert kernels
    assert max(t.distinct for t in kernels) <= NUM_VALUES
    file = parse(tflite)
    exact = parse(sws.convert_to_tflite(sws.place_on_int8_grid(model)))
    expected = [v.reshape(t.shape) for t, v in constants(exact)]
    for tensor, integers in constants(file):
        # An embedding, which is only looked up in, stays as the converter has it, and so may
        # a kernel of few weights.
        has_channels = integers.dtype == np.int8 and len(tensor.quantization.scale) > 1
        if has_channels and integers.size >= 100:
            shape = [1] * len(tensor.shape)
            shape[tensor.quantization.quantizedDimension] = -1
            steps = np.reshape(tensor.quantization.scale, shape)
            values = integers.reshape(tensor.shape) * steps
            assert any(
                values.shape == e.shape and np.allclose(values, e, rtol=1e-6, atol=0)
                for e in expected
            )


@pytest.mark.parametrize("zeros", [0.5, 1.0])
def test_biases_of_an_int8_file_keep_their_size(zeros, rng):
    """Channels of zeros answer with their bias, which has no step to be a multiple of."""
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(12)])
    kernel = rng.choice(np.float32([-0.7, 0.31, 0.5]), (20, 12))
    kernel[:, : round(12 * zeros)] = 0
    bias = rng.normal(0, 0.01, 12).astype("float32")
    model.set_weights([kernel, bias])
    x = rng.normal(size=(64, 20)).astype("float32")
    file = parse(sws.convert_to_tflite(model, "int8", representative_data=x, tolerance=1.0))
    tensors = file.subgraphs[0].tensors
    found = next(
        np.frombuffer(bytes(file.buffers[t.buffer].data), np.int32) * t.quantization.scale
        for t in tensors
        if list(t.shape) == [12] and t.quantization is not None
    )
    np.testing.assert_allclose(found, bias, atol=0.03 * 0.7 / 2 + 1e-6)


def int8_error(model, x):
    """Of the int8 file, and of the one that the converter makes, relative to the signal."""
    with pytest.MonkeyPatch.context() as patch:
        files = [sws.convert_to_tflite(model, "int8", representative_data=x)]
        patch.setattr(formats, "share_integers", lambda tflite, _: tflite)
        files.append(sws.convert_to_tflite(model, "int8", representative_data=x))
    assert files[0] != files[1]
    return [sws.verify_tflite(file, model, x).relative_error for file in files]


def test_int8_keeps_channels_that_hardly_count(rng):
    """Their weights are tiny beside their biases, which 32 bits must hold."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    cluster(model)
    gamma = np.float32([1, 1e-8, 1e-7, 1, 0.5, 1, 1, 1])
    norm = model.layers[1]
    norm.set_weights([gamma, rng.uniform(0.5, 1, 8), np.zeros(8), np.ones(8)])
    x = rng.normal(size=(64, 8, 8, 3)).astype("float32")
    error, of_converter = int8_error(model, x)
    assert error < 1.2 * of_converter


def test_int8_of_outputs_far_below_their_inputs_runs(rng):
    """Where each product is many units of the output, LiteRT takes no larger steps."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(20), keras.layers.ReLU(6)])
    kernel = rng.choice(np.float32([-1.5, 0, 1.5]), (6, 20))
    model.set_weights([kernel, np.zeros(20, "float32")])
    x = rng.normal(0, 1000, size=(64, 6)).astype("float32")
    error, of_converter = int8_error(model, x)
    assert error < 1.2 * of_converter


@pytest.mark.parametrize("weights", ["int8", "int8_codebook", "smallest"])
def test_several_inputs_without_names(weights, rng):
    first, second = keras.Input((10,)), keras.Input((6,))
    joined = keras.layers.Concatenate()([first, second])
    model = cluster(keras.Model([first, second], keras.layers.Dense(12)(joined)))
    inputs = [rng.normal(size=(32, n)).astype("float32") for n in (10, 6)]
    tflite = sws.convert_to_tflite(model, weights, representative_data=inputs, sample=inputs)
    assert sws.verify_tflite(tflite, model, inputs).relative_error < 0.05


def test_int8_of_a_model_that_cannot_be_rebuilt(rng):
    class Own(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.dense = keras.layers.Dense(units)

        def call(self, inputs):
            return self.dense(inputs)

    model = Own(12)
    x = rng.normal(size=(32, 10)).astype("float32")
    model(x)
    tflite = sws.convert_to_tflite(cluster(model), "int8", representative_data=x)
    assert sws.verify_tflite(tflite, model, x).relative_error < 0.05


def test_an_int8_file_without_clusters_is_the_converter_s(rng):
    model = sequential()
    x = rng.normal(size=(16, *model.inputs[0].shape[1:])).astype("float32")
    tflite = sws.convert_to_tflite(model, "int8", representative_data=x)
    exact = sws.convert_to_tflite(model)
    assert share_integers(tflite, exact) is tflite


def test_placing_moves_little_and_keeps_clusters():
    model = cluster(sequential())
    placed = sws.place_on_int8_grid(model)
    for old, new in zip(model.get_weights(), placed.get_weights(), strict=True):
        assert np.max(np.abs(new - old)) <= np.max(np.abs(old)) / 254 * (1 + 1e-4)
        np.testing.assert_array_equal(new == 0, old == 0)
        assert np.unique(new).size <= np.unique(old).size
    again = sws.place_on_int8_grid(placed)
    for once, twice in zip(placed.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(once, twice)


def test_few_great_weights_do_not_push_the_others_off(rng):
    """A kernel whose one step would move its weights far has a step for each channel."""
    values = np.float32([-9, -2.9, -0.74, -0.19, 0, 0.136, 0.559, 2.25, 9])
    shares = [0.0001, 0.02, 0.2, 0.24, 0.28, 0.2, 0.04, 0.0198, 0.0001]
    kernel = rng.choice(values, (128, 128), p=shares)
    dense = keras.Sequential([keras.Input((128,)), keras.layers.Dense(128)])
    dense.set_weights([kernel, np.zeros(128, "float32")])
    placed = sws.place_on_int8_grid(dense).get_weights()[0]
    assert np.linalg.norm(placed - kernel) < 0.01 * np.linalg.norm(kernel)
    # One step would be 9 / 127, and put 0.19 at 0.21 and 0.136 at 0.14.
    assert np.unique(placed[:, np.abs(kernel).max(0) < 9]).size > values.size
    np.testing.assert_array_equal(placed == 0, kernel == 0)
    for column, old in zip(placed.T, kernel.T, strict=True):
        assert np.abs(column - old).max() <= np.abs(old).max() / 254 * (1 + 1e-4)
        assert np.unique(column).size <= np.unique(old).size
    dense.set_weights([placed, np.zeros(128, "float32")])
    np.testing.assert_array_equal(sws.place_on_int8_grid(dense).get_weights()[0], placed)
    x = rng.standard_normal((8, 128)).astype("float32")
    tflite = sws.convert_to_tflite(dense, "int8_codebook", sample=x)
    np.testing.assert_array_equal(
        sws.predict_tflite(tflite, x), sws.predict_tflite(sws.convert_to_tflite(dense), x)
    )


def test_many_channels_behind_batch_norm_take_a_quarter(rng):
    """The zero points of all channels, 8 bytes each, lie in the file once a length."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 3))])
    for filters in (32, 64, 64):
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model = cluster(model, zeros=0.5)
    for layer in model.layers[1::3]:
        layer.gamma.assign(rng.uniform(0.5, 2, layer.gamma.shape))
    x = rng.standard_normal((4, 8, 8, 3)).astype("float32")
    files = {w: sws.convert_to_tflite(model, w, sample=x) for w in ("float32", "int8_codebook")}
    assert len(files["int8_codebook"]) < 0.27 * len(files["float32"])
    inside = parse(files["int8_codebook"]).subgraphs[0]
    named = {position for position, t in enumerate(inside.tensors) if t.name}
    assert {*inside.inputs, *inside.outputs} <= named
    assert all(t.name for t in stored_tensors(files["int8_codebook"]))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 0.7, 3e7])
def test_grid_is_exact_in_float32(scale, rng):
    dense = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    kernel = (scale * rng.standard_normal((64, 64))).astype("float32")
    dense.set_weights([kernel, np.zeros(64, "float32")])
    placed = sws.place_on_int8_grid(dense).get_weights()[0]
    step = np.float32(np.abs(placed).max()) / np.float32(127)  # a kernel of many values
    integers = np.round(placed / step)
    assert np.abs(integers).max() == 127
    np.testing.assert_array_equal(integers.astype(np.int8) * step, placed)


@keras.saving.register_keras_serializable(package="tfmot_sws_tests")
class WithNorm(keras.Model):
    """A subclassed model, which only the converter can fold."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.head = keras.layers.Dense(64), keras.layers.Dense(32)
        self.norm = keras.layers.BatchNormalization()

    def build(self, input_shape):
        self.hidden.build(input_shape)
        self.norm.build((None, 64))
        self.head.build((None, 64))
        self.built = True

    def call(self, inputs):
        return self.head(self.norm(self.hidden(inputs)))


def test_kernels_that_only_the_converter_folds_are_integers(rng):
    model = WithNorm()
    x = rng.standard_normal((8, 32)).astype("float32")
    model(x)
    model.norm.set_weights(rng.uniform(-2, 2, (4, 64)).astype("float32") ** 2)
    tflite = sws.convert_to_tflite(cluster(model), "int8_codebook", sample=x)
    tensors = large(stored_tensors(tflite))
    assert [t.dtype for t in tensors] == ["int8", "int8"]
    assert max(t.distinct for t in tensors) <= NUM_VALUES


@keras.saving.register_keras_serializable(package="tfmot_sws_tests")
class Computed(keras.layers.Dense):
    """A layer that computes with something else than its kernel."""

    def call(self, inputs):
        return inputs @ keras.ops.tanh(self.kernel)


def test_kernels_off_the_grid_stay_float():
    model = keras.Sequential([keras.Input((32,)), Computed(64), keras.layers.Dense(32)])
    with pytest.warns(UserWarning, match="do not lie on an int8 grid"):
        tflite = sws.convert_to_tflite(model, "int8_codebook")
    assert sorted(t.dtype for t in large(stored_tensors(tflite))) == ["float32", "int8"]


def test_sparse_says_when_zeros_do_not_pay():
    with pytest.warns(UserWarning, match=r"bytes sparse, .* Share of zeros: .* \d+%"):
        tflite = sws.convert_to_tflite(sequential(), "sparse")
    assert len(tflite) == len(sws.convert_to_tflite(sequential()))


def test_sparse_never_loses_weights():
    """LiteRT drops what lies behind the last multiple of 4 in a row of a sparse matrix."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    kernel = np.zeros((6, 3), "float32")
    kernel[4:, 1] = 0.5
    model.layers[0].kernel.assign(kernel)
    with pytest.warns(UserWarning, match="would lose some of its weights"):
        tflite = sws.convert_to_tflite(model, "sparse")
    assert sws.verify_tflite(tflite, model).difference < EXACT


def on_uniform_grid(model):
    """Rounds every kernel in place to integers of -7 to 7 times a step of its own."""
    for variable in model.trainable_variables:
        values = np.asarray(variable)
        if values.ndim > 1 and np.any(values):
            step = np.abs(values).max() / 7
            variable.assign(np.rint(values / step) * step)
    return model


@pytest.mark.parametrize("name", ["functional", "separable", "attention"])
def test_int4_codebook_is_an_eighth_and_exact(name, rng):
    model = on_uniform_grid(FAMILIES[name].build())
    inputs = FAMILIES[name].make_inputs(rng)
    tflite = sws.convert_to_tflite(model, "int4_codebook", sample=inputs)
    verification = sws.verify_tflite(tflite, model, inputs)
    assert verification.difference < 1e-5
    kernels = [t for t in large(verification.tensors) if t.size >= 160]
    assert {t.dtype for t in kernels} == {"int4"}
    assert max(t.distinct_per_channel for t in kernels) <= 15
    assert all(t.stored_bytes == -(-t.size // 2) for t in kernels)


def test_int4_codebook_behind_a_batch_norm_of_round_factors(rng):
    """With the factors 1 and 16, the folded kernel lies on one grid of 8 bits, too."""
    conv = keras.layers.Conv2D(8, 3, use_bias=False)
    norm = keras.layers.BatchNormalization(epsilon=0.0)
    model = keras.Sequential([keras.Input((6, 6, 16)), conv, norm])
    conv.kernel.assign(rng.integers(-7, 8, conv.kernel.shape) / np.float32(64))
    norm.gamma.assign(np.float32([1, 16] * 4))
    inputs = rng.standard_normal((8, 6, 6, 16)).astype("float32")
    tflite = sws.convert_to_tflite(model, "int4_codebook", sample=inputs)
    assert sws.verify_tflite(tflite, model, inputs).difference < 1e-5
    assert {t.dtype for t in large(stored_tensors(tflite))} == {"int4"}


def test_int4_codebook_names_what_does_not_fit():
    model = on_uniform_grid(sequential())
    model.layers[0].kernel.assign(model.layers[0].kernel + 0.01)
    with pytest.raises(
        sws.ExportError, match=r"values of \['.*/kernel'\] are not .*'smallest'"
    ):
        sws.convert_to_tflite(model, "int4_codebook")


def test_smallest_takes_for_each_tensor_what_is_smallest(rng):
    """The first kernel's rows are no multiple of 4, which LiteRT's own converter loses."""
    units, values = (
        (48, 40, 36, 30),
        ([0] * 19 + [0.3], range(-7, 8), [-1, 0.3, 1.7], [-2, 0, 2]),
    )
    model = keras.Sequential([keras.Input((66,)), *map(keras.layers.Dense, units)])
    for layer, choices in zip(model.layers, values, strict=True):
        layer.kernel.assign(rng.choice(np.float32(choices) / 9, layer.kernel.shape))
    x = rng.standard_normal((8, 66)).astype("float32")
    tflite = sws.convert_to_tflite(model, "smallest", sample=x)
    verification = sws.verify_tflite(tflite, sws.place_on_int8_grid(model), x)
    assert verification.difference < 1e-5
    kernels = {t.shape: (t.dtype, t.sparse) for t in large(verification.tensors)}
    assert kernels == {
        (48, 66): ("int8", True),
        (40, 48): ("int4", False),
        (36, 40): ("int8", False),
        (30, 36): ("int2", False),
    }
    others = ("int8_codebook", "float32")
    assert all(len(tflite) < len(sws.convert_to_tflite(model, w, sample=x)) for w in others)


def test_a_looked_up_embedding_of_zeros_is_packed_and_not_sparse(rng):
    """LiteRT gives wrong rows of a sparse one; the layer behind it may be sparse."""
    keras.utils.set_random_seed(0)
    values = np.where(rng.random((1000, 24)) < 0.94, 0.0, 0.05).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((20,), dtype="int64"),
            keras.layers.Embedding(1000, 24),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(4),
        ]
    )
    model.layers[0].set_weights([values])
    sample = rng.integers(0, 1000, (50, 20))
    small = sws.convert_to_tflite(model, "smallest", sample=sample)
    found = sws.predict_tflite(small, sample)
    # The last kernel has moved to a grid of 8 bits.
    np.testing.assert_allclose(found, model(sample), atol=2e-4)
    assert len(small) < values.nbytes / 8
