"""LiteRT export: quiet, checked, and clear when it cannot be done."""

import gzip
import io
import logging
import sys

import keras
import numpy as np
import pytest
from families import FAMILIES, sequential
from rounding import cluster

import tfmot_sws as sws
from tfmot_sws.litert import formats as tflite_formats
from tfmot_sws.litert.file import stored_tensors


def test_export_is_quiet(capfd):
    sws.convert_to_tflite(sequential())
    captured = capfd.readouterr()
    assert "Saved artifact" not in captured.out + captured.err


def test_export_is_quiet_in_a_notebook():
    # There TensorFlow logs what it does, to a stream of its own.
    logger, stream = logging.getLogger("tensorflow"), io.StringIO()
    handler, level = logging.StreamHandler(stream), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        sws.convert_to_tflite(sequential())
        assert not stream.getvalue()
        logger.info("back")
        assert stream.getvalue() == "back\n"
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_prediction_takes_any_number_of_examples(rng):
    model = sequential()
    x = rng.standard_normal((7, 10)).astype("float32")
    outputs = sws.predict_tflite(sws.convert_to_tflite(model), x, batch_size=3)
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


def test_a_file_may_be_a_path_or_its_bytes(rng, tmp_path):
    model, path = sequential(), tmp_path / "model.tflite"
    x = rng.standard_normal((7, 10)).astype("float32")
    sws.export(model, path)
    for file in (str(path), path, memoryview(path.read_bytes())):
        assert (
            sws.predict_tflite(file, x).tobytes()
            == sws.predict_tflite(path.read_bytes(), x).tobytes()
        )
        assert sws.verify_tflite(file, model, x).difference < 1e-5
    with pytest.raises(FileNotFoundError, match=r"none\.tflite"):
        sws.predict_tflite(tmp_path / "none.tflite", x)
    with pytest.raises(TypeError, match="a path, or a file's bytes; received int 3"):
        sws.verify_tflite(3, model, x)


def test_recurrent_model_gets_a_batch_of_one(rng):
    family = FAMILIES["recurrent"]
    model = family.build()
    tflite = sws.convert_to_tflite(model)
    x = family.make_inputs(rng)
    outputs = sws.predict_tflite(tflite, x)
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


def test_an_unrolled_model_computes_the_same(rng):
    x = (1000 * rng.random((50, 6, 3)) + [0, 500, 9000]).astype("float32")
    normalize = keras.layers.Normalization()
    normalize.adapt(x)
    lstm = keras.layers.LSTM(4)
    model = keras.Sequential([keras.Input((6, 3)), normalize, lstm, keras.layers.Dense(2)])
    unrolled, _ = tflite_formats._without_loops(model)
    assert unrolled is not model
    np.testing.assert_allclose(unrolled(x), model(x), rtol=1e-4, atol=1e-5)


def test_outputs_keep_their_order(rng):
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(units)(inputs) for units in range(1, 13)]
    tflite = sws.convert_to_tflite(keras.Model(inputs, outputs))
    predicted = sws.predict_tflite(tflite, rng.standard_normal((2, 4)).astype("float32"))
    assert [p.shape[1] for p in predicted] == list(range(1, 13))


def test_a_difference_is_found():
    model = sequential()
    tflite = sws.convert_to_tflite(model)
    model.layers[-1].bias.assign_add(np.ones(3))
    assert sws.verify_tflite(tflite, model).difference > 0.1


def test_verification_of_known_weights():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    kernel = np.float32([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.25], [0, 0, 0]])
    model.set_weights([kernel, np.zeros(3)])
    tflite = sws.convert_to_tflite(model)
    verification = sws.verify_tflite(tflite, model, np.eye(4, dtype="float32")[:3])
    (tensor,) = verification.tensors
    assert (tensor.shape, tensor.dtype, tensor.stored_bytes) == ((3, 4), "float32", 3 * 4 * 4)
    assert (tensor.distinct, tensor.zeros, tensor.size) == (3, 9, 12)
    assert (verification.difference, verification.agreement) == (0.0, 1.0)
    assert verification.raw_bytes == len(tflite)
    assert verification.gzip_bytes == len(gzip.compress(tflite, 9))
    model.layers[0].kernel.assign(kernel[:, [1, 0, 2]])
    other = sws.verify_tflite(tflite, model, np.eye(4, dtype="float32")[:3])
    assert (other.difference, other.agreement) == (0.5, pytest.approx(1 / 3))


def test_a_single_output_has_no_class():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    assert sws.verify_tflite(sws.convert_to_tflite(model), model).agreement is None


def test_verify_rejects_other_files():
    with pytest.raises(ValueError, match=r"Not a \.tflite file"):
        sws.verify_tflite(b"PK" * 10, sequential())


@pytest.fixture
def wrong_file(monkeypatch):
    """What the converter makes is from another model."""
    wrong = sws.convert_to_tflite(sequential())
    monkeypatch.setattr(tflite_formats, "convert", lambda *_: wrong)


@pytest.mark.usefixtures("wrong_file")
def test_a_model_that_exports_wrongly_is_turned_down():
    with pytest.raises(sws.ExportError, match=r"differ from those of .* Nothing was written"):
        sws.convert_to_tflite(sequential())


@pytest.mark.usefixtures("wrong_file")
def test_export_leaves_the_old_file_when_it_refuses(tmp_path):
    target = tmp_path / "model.tflite"
    target.write_bytes(b"old")
    with pytest.raises(sws.ExportError):
        sws.export(sequential(), target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_export_writes_what_it_verified(tmp_path):
    model, target = sequential(), tmp_path / "model.tflite"
    verification = sws.export(model, target, "float16")
    assert target.stat().st_size == verification.raw_bytes
    assert verification == sws.verify_tflite(target.read_bytes(), model)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["functional", "subclassed"])
def test_mixed_precision_is_rebuilt_in_float32(policy, name, rng):
    family = FAMILIES[name]
    keras.config.set_dtype_policy(policy)
    try:
        model = family.build()
        tflite = sws.convert_to_tflite(model)
        assert keras.config.dtype_policy().name == policy
    finally:
        keras.config.set_dtype_policy("float32")
    x = family.make_inputs(rng)
    outputs = sws.predict_tflite(tflite, x)
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, model(x, training=False), rtol=0.05, atol=0.05)


@keras.saving.register_keras_serializable(package="tfmot_sws_tests")
class TakesDict(keras.Model):
    """A subclassed model without a build() of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs["first"]) + inputs["second"]


def takes_dict():
    model = TakesDict()
    model({"first": np.zeros((1, 4)), "second": np.zeros((1, 3))})
    return model


@pytest.mark.parametrize("weights", ["float32", "int8_codebook"])
@pytest.mark.parametrize("name", ["subclassed", "dict"])
def test_subclassed_model_from_a_file(name, weights, rng, tmp_path):
    """A .keras file turns the shapes of a model's inputs from tuples into lists."""
    x = rng.standard_normal((5, 10)).astype("float32")
    model, inputs = FAMILIES["subclassed"].build(), x
    if name == "dict":
        model, inputs = takes_dict(), {"first": x[:, :4], "second": x[:, 4:7]}
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    tflite = sws.convert_to_tflite(loaded, weights, sample=inputs)
    difference = sws.verify_tflite(tflite, model, inputs).difference
    assert difference < (1e-4 if weights == "float32" else 0.1)


def test_model_without_config_says_what_it_needs():
    class Plain(keras.Model):
        def __init__(self, units):
            super().__init__(dtype="mixed_float16")
            self.dense = keras.layers.Dense(units, dtype="mixed_float16")

        def call(self, inputs):
            return self.dense(inputs)

    model = Plain(2)
    model(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"cannot be rebuilt .* get_config"):
        sws.convert_to_tflite(model)


def as_dataset(x):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, x[:, :3])).batch(8)


def as_generator(x):
    return (part for part in np.split(x, 4))


@pytest.mark.parametrize("make", [as_dataset, as_generator, lambda x: x])
def test_representative_data_comes_in_many_forms(make, rng):
    model, x = sequential(), rng.standard_normal((64, 10)).astype("float32")
    tflite = sws.convert_to_tflite(model, "int8", representative_data=make(x))
    assert tflite == sws.convert_to_tflite(model, "int8", representative_data=x)
    kernels = [t for t in stored_tensors(tflite) if len(t.shape) > 1]
    assert {t.dtype for t in kernels} == {"int8"}


def test_a_file_that_litert_cannot_load_is_turned_down(rng):
    """A layer that reads only zeros gives an activation without range."""
    first, second = (keras.layers.Dense(4, use_bias=False) for _ in range(2))
    model = keras.Sequential([keras.Input((10,)), first, second, keras.layers.Dense(3)])
    row, column = np.eye(4)[:, :1], 1 - np.eye(4)[:1]
    first.kernel.assign(first.kernel * column)
    second.kernel.assign(np.ones((4, 4)) * row)
    x = rng.standard_normal((16, 10)).astype("float32")
    with pytest.raises(sws.ExportError, match=r"cannot run the 'int8' file .* always zero"):
        sws.convert_to_tflite(model, "int8", representative_data=x)


def test_tflm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(ImportError, match=r"pip install 'tfmot-sws\[tflm\]'"):
        sws.convert_to_tflite(cluster(sequential()), "tflm")


def test_unconvertible_model_says_why():
    class Exotic(keras.layers.Layer):
        def call(self, inputs):
            import tensorflow as tf

            return tf.py_function(lambda x: x, [inputs], tf.float32)

        def compute_output_shape(self, input_shape):
            return input_shape

    inputs = keras.Input((4,))
    model = keras.Model(
        inputs, keras.layers.Dense(2)(keras.layers.Reshape((4,))(Exotic()(inputs)))
    )
    with pytest.raises(sws.ExportError, match=r"could not convert"):
        sws.convert_to_tflite(model)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: (sequential(), "int3"), ValueError, "weights must be one of"),
        (lambda: (sequential(), "int8"), ValueError, "needs representative_data="),
        (
            lambda: (sws.apply_soft_weight_sharing(sequential()), "float32"),
            TypeError,
            "A stripped model is expected",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        sws.convert_to_tflite(*make())


def test_several_inputs_need_names():
    tflite = sws.convert_to_tflite(FAMILIES["multi_io"].build())
    with pytest.raises(ValueError, match=r"pass a dict with keys \['image', .*received list"):
        sws.predict_tflite(tflite, [np.zeros((1, 8, 8, 3)), np.zeros((1, 10))])


@pytest.mark.parametrize("names", [("z", "a"), (None, None)])
def test_lists_of_inputs_reach_the_check_in_the_order_of_the_model(names, rng):
    """Both are of one shape, so that nothing but the order tells them apart."""
    first, second = (keras.Input((3,), name=name) for name in names)
    model = keras.Model([second, first], keras.layers.Dense(2)(second - 2.0 * first))
    x = [rng.standard_normal((5, 3)).astype("float32") for _ in range(2)]
    tflite = sws.convert_to_tflite(model, sample=x)
    assert sws.verify_tflite(tflite, model, x).difference < 1e-5
    named = {tensor.name: array for tensor, array in zip(model.inputs, x, strict=True)}
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(
        sws.predict_tflite(tflite, named), expected, rtol=1e-4, atol=1e-5
    )


def test_prediction_has_the_form_of_keras(rng):
    x = rng.standard_normal((5, 10)).astype("float32")
    inputs = keras.Input((10,))
    first, second = keras.layers.Dense(3)(inputs), keras.layers.Dense(2)(inputs)
    for outputs in (first, [first, second]):
        model = keras.Model(inputs, outputs)
        found = sws.predict_tflite(sws.convert_to_tflite(model), [x])
        expected = model.predict(x, verbose=0)
        assert type(found) is type(expected)
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
        )
