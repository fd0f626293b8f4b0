"""Files made to do harm, or to take time or memory, are refused at once.

The attacks in this file got through an earlier reader, or would have.
"""

import copy
import json

import keras
import numpy as np
import pytest
from hostile import cheap, config_of, packed, values_of
from keras import layers, ops

import tfmot_sws as sws
from tfmot_sws.coding.container import Section, frame
from tfmot_sws.coding.limits import default_max_bytes
from tfmot_sws.coding.stored_graph import graph_problem
from tfmot_sws.coding.table import BULK, TensorEntry, encode_table
from tfmot_sws.coding.text import encode_text


@pytest.fixture(scope="module")
def graph():
    """A functional model with an operation on a constant."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(4)(inputs) + np.ones(4, "float32"))
    return config_of(model), values_of(model)


def refuse(data, path, match=None, **limits):
    """Checks that reading the data ends in the one error, soon and without much memory."""
    path.write_bytes(data)
    with cheap(**limits), pytest.raises(sws.CompressedFileError, match=match):
        sws.load_compressed(path)


@pytest.fixture
def path(tmp_path, graph):
    """A path for a file; what a first file takes has been taken before."""
    path = tmp_path / "model.sws"
    path.write_bytes(packed(*graph))
    sws.load_compressed(path)
    return path


def layer_of(config, number=-1):
    return config["config"]["layers"][number]


# Functions and classes that do more than arithmetic.

FUNCTIONS = [
    ("keras.visualization", "plot_image_gallery"),
    ("keras.utils", "plot_model"),
    ("keras.applications.vgg16", "decode_predictions"),
    ("keras.datasets.mnist", "load_data"),
    ("keras.config", "set_epsilon"),
    ("keras.config", "enable_unsafe_deserialization"),
    ("keras.ops", "map"),
    ("keras.src.utils.io_utils", "print_msg"),
    ("builtins", "exec"),
    ("builtins", "deserialize"),
    ("builtins", "get"),
    ("tensorflow", "io.write_file"),
    ("os", "system"),
    (None, "plot_model"),
]


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


@pytest.mark.parametrize(("module", "name"), FUNCTIONS)
def test_functions_are_refused_wherever_they_stand(module, name, graph, path):
    for place in ("activation", "kernel_initializer", "activity_regularizer", "name"):
        config, arrays = copy.deepcopy(graph)
        layer_of(config, 1)["config"][place] = function(module, name)
        refuse(packed(config, arrays), path, "neither on the list")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("keras.layers", "Lambda"),
        ("keras.layers", "TFSMLayer"),
        ("keras.layers", "JaxLayer"),
        ("keras.layers", "TorchModuleWrapper"),
        ("keras.utils", "FeatureSpace"),
        ("keras.callbacks", "CSVLogger"),
        ("keras.optimizers", "Adam"),
        ("keras.src.ops.core", "Map"),
        ("keras.src.models.cloning", "Functional"),
        ("tfmot_sws.training.wrapper", "SoftWeightSharing"),
        (None, "Dense"),
        ("keras", "Dense"),
    ],
)
def test_classes_off_the_list_are_refused(module, name, graph, path):
    config, arrays = copy.deepcopy(graph)
    layer_of(config, 1).update(module=module, class_name=name, registered_name=None)
    refuse(packed(config, arrays), path, "neither on the list|holds code")


def test_a_class_without_a_module_is_refused(graph, path):
    config, arrays = copy.deepcopy(graph)
    del layer_of(config, 1)["module"]
    refuse(packed(config, arrays), path, "without a module")


def test_wrappers_of_this_package_are_refused(graph, path):
    config, arrays = copy.deepcopy(graph)
    layer_of(config, 1).update(
        module=None, class_name="X", registered_name="tfmot_sws>SoftWeightSharing"
    )
    refuse(packed(config, arrays), path, "strip_soft_weight_sharing")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("standardize", "plot_model"),
        ("split", "get"),
        ("standardize", ["lower"]),
        ("vocabulary", "/etc/passwd"),
        ("ngrams", 10**7),
    ],
)
def test_text_is_split_in_documented_ways_only(setting, value, path):
    text = layers.TextVectorization(vocabulary=["a", "b"], ngrams=2, split="character")
    model = keras.Sequential([keras.Input((1,), dtype="string"), text])
    config = config_of(model)
    path.write_bytes(packed(config, []))
    assert sws.load_compressed(path)(np.array([["ba"]])).shape == (1, 3)
    layer_of(config)["config"][setting] = value
    refuse(packed(config, []), path, "neither on the list|another file|ngrams=10000000")


def test_losses_and_metrics_in_a_file_are_not_built(graph, path):
    config, arrays = copy.deepcopy(graph)
    bad = {"optimizer": "adam", "loss": function("keras.utils", "plot_model")}
    config["compile_config"] = {"optimizer": "adam", "loss": "mse"}
    path.write_bytes(packed(config, arrays))
    assert not sws.load_compressed(path).compiled
    config["compile_config"] = bad
    refuse(packed(config, arrays), path, "neither on the list")


def test_a_function_of_keras_needs_the_reader(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, activation=ops.sin)])
    path = tmp_path / "sin.sws"
    path.write_bytes(packed(config_of(model), values_of(model)))
    with pytest.raises(sws.CompressedFileError, match="'sin' of 'builtins'"):
        sws.load_compressed(path)
    loaded = sws.load_compressed(path, custom_objects={"sin": ops.sin})
    assert loaded.layers[0].activation is ops.sin


# Small files that ask for much.


def test_operation_on_constants_alone_is_refused(graph, path):
    config, arrays = copy.deepcopy(graph)
    operation = layer_of(config)
    operation.update(class_name="Tile", registered_name="Tile")
    operation["config"] = {"name": operation["name"], "repeats": [1 << 24] * 2}
    operation["inbound_nodes"][0]["args"].pop(0)
    refuse(packed(config, arrays), path, "constants alone")


@pytest.mark.parametrize(
    ("dtype", "value"), [("S999999999", [1]), ("object", [1]), ("float32", {"a": 1})]
)
def test_constants_are_arrays_of_numbers(dtype, value, graph, path):
    config, arrays = copy.deepcopy(graph)
    layer_of(config)["inbound_nodes"][0]["args"][1]["config"] = {"dtype": dtype, "value": value}
    refuse(packed(config, arrays), path, "a constant that is no")


def test_entries_of_one_value_are_bounded_by_the_file(graph, path):
    table = encode_table([TensorEntry((140_000_000,), "float32", BULK, 0)])
    text = encode_text(json.dumps(graph[0]).encode())
    parts = {Section.ARCHITECTURE: text, Section.TENSORS: table + bytes(28_000)}
    refuse(b"".join(frame(parts)), path, "max_bytes=560000000")


def test_the_reader_may_allow_more_memory(path):
    model = keras.Sequential([keras.Input((2100,)), layers.Dense(2100, use_bias=False)])
    model.layers[0].kernel.assign(np.zeros((2100, 2100), "float32"))
    sws.save_compressed(model, path)
    needed = 4 * 2100 * 2100
    assert needed > default_max_bytes(path.stat().st_size) > 1 << 24
    with cheap(), pytest.raises(sws.CompressedFileError, match=f"max_bytes={needed}"):
        sws.load_compressed(path)
    assert sws.load_compressed(path, max_bytes=needed).count_params() == 2100 * 2100
    assert sws.load_compressed(path, model=model) is model
    with pytest.raises(sws.CompressedFileError, match="more than the 1000"):
        sws.load_compressed(path, model=model, max_bytes=1000)


@pytest.mark.parametrize(
    ("layer", "stored"),
    [
        (layers.Dense(64), 1),
        (layers.LSTM(64, return_sequences=True), 1),
        (layers.Dense(64), 400),
    ],
)
def test_many_layers_that_do_not_match_are_refused(layer, stored, path):
    one = keras.Sequential([keras.Input((4, 64)), layer])
    config = config_of(one)
    inputs, part = config["config"]["layers"]
    named = ({**part, "config": {**part["config"], "name": f"l{i}"}} for i in range(400))
    config["config"]["layers"] = [inputs, *named]
    # Keras needs a while to build 400 layers; building them once for each layer took 35 s.
    seconds = 1 if stored == 1 else 6
    refuse(
        packed(config, [np.zeros(3, "float32")] * stored), path, "weights|400", seconds=seconds
    )


@pytest.mark.parametrize("calls", [5_000, 40_000])
def test_many_calls_of_a_layer_are_refused(calls, graph, path):
    config, arrays = copy.deepcopy(graph)
    layer_of(config, 1)["inbound_nodes"] *= calls
    refuse(packed(config, arrays), path, "calls of layers|values")


def test_initial_values_are_not_computed(path):
    model = keras.Sequential([keras.Input((2, 8)), layers.LSTM(1000)])
    arrays = [np.zeros(v.shape, v.dtype) for v in model.variables]
    path.write_bytes(packed(config_of(model), arrays))
    with cheap(seconds=2, megabytes=150):
        loaded = sws.load_compressed(path, max_bytes=1 << 25)
    assert type(loaded.layers[0].cell.recurrent_initializer) is keras.initializers.Orthogonal
    assert config_of(loaded) == config_of(model)


def test_nested_bidirectional_layers_are_refused(path):
    model = keras.Sequential([keras.Input((4, 2)), layers.Bidirectional(layers.LSTM(2))])
    config = config_of(model)
    outer = layer_of(config)
    for number in range(9):
        inner = copy.deepcopy(outer)
        outer["config"].update(layer=inner, name=f"b{number}")
    refuse(packed(config, values_of(model)), path, "within another")


def test_a_graph_without_an_end_is_refused(graph, path):
    config, arrays = copy.deepcopy(graph)
    text = json.dumps(config).replace('["dense', '["no')
    refuse(packed(text.encode(), arrays), path, "graph of layers that is not readable")
    operation = layer_of(config)
    history = operation["inbound_nodes"][0]["args"][0]["config"]["keras_history"]
    history[0] = operation["name"]
    refuse(packed(config, arrays), path, "inputs never come")


def test_the_order_of_layers_may_not_cost_keras_too_many_passes():
    def layer(number):
        history = {"keras_history": [f"l{number - 1}", 0, 0]}
        source = {"class_name": "__keras_tensor__", "config": history}
        calls = [{"args": [source], "kwargs": {}}] if number else []
        name = "Dense" if number else "InputLayer"
        known = {"class_name": name, "module": "keras.layers"}
        return {"name": f"l{number}", "inbound_nodes": calls, **known}

    chain = [layer(number) for number in range(600)]
    assert graph_problem({"layers": chain}) is None
    with cheap():
        assert "takes Keras too long" in graph_problem({"layers": chain[::-1]})


@pytest.mark.parametrize(
    ("first", "repeated", "times"),
    [
        (b"[", b"{},", 1 << 21),
        (b"", b"[", 1 << 21),
        (b"", b'{"a":', 1 << 18),
        (b"", b"1", 1 << 20),
    ],
)
def test_long_texts_are_refused(first, repeated, times, path):
    text = encode_text(first + repeated * times)
    refuse(b"".join(frame({Section.ARCHITECTURE: text})), path)


def test_many_empty_tensors_are_refused(path):
    table = encode_table([TensorEntry((0,), "float32")] * 100_000)
    refuse(b"".join(frame({Section.TENSORS: table})), path, "tensors, which no model")


# tf_keras.


@pytest.fixture(scope="module")
def of_tf_keras():
    """A functional model of tf_keras with two operations."""
    tf_keras = pytest.importorskip("tf_keras")
    inputs = tf_keras.Input((4,))
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(4)(inputs) * 2.0 + 1.0)
    return config_of(model, tf_keras), values_of(model)


def test_operations_of_tf_keras_are_loaded(of_tf_keras, tmp_path):
    path = tmp_path / "model.sws"
    path.write_bytes(packed(*of_tf_keras))
    assert len(sws.load_compressed(path).layers) == 4


@pytest.mark.parametrize(
    "name",
    ["keras.models.save_model", "io.write_file", "saved_model.save", "py_function", "fill",
     "map_fn", "nn.RNNCellDeviceWrapper", "math.bincount", "random.normal", ["math.add"]],
)  # fmt: skip
def test_functions_of_tensorflow_off_the_list_are_refused(name, of_tf_keras, path):
    config, arrays = copy.deepcopy(of_tf_keras)
    layer_of(config)["config"]["function"] = name
    refuse(packed(config, arrays), path, "which may do anything")


@pytest.mark.parametrize(
    "name", ["TensorFlowOpLayer", "ClassMethod", "InstanceMethod", "Lambda"]
)
@pytest.mark.parametrize("module", ["keras.layers", "tf_keras.src.layers.core.tf_op_layer"])
def test_layers_that_call_by_name_are_refused(name, module, of_tf_keras, path):
    config, arrays = copy.deepcopy(of_tf_keras)
    layer_of(config).update(class_name=name, module=module)
    refuse(packed(config, arrays), path, "neither on the list|holds code")


def test_constants_in_graphs_of_tf_keras_are_not_computed(of_tf_keras, path):
    config, arrays = copy.deepcopy(of_tf_keras)
    layer_of(config)["config"]["function"] = "tile"
    call = ["_CONSTANT_VALUE", -1, [1.0], {"multiples": [1 << 24]}]
    layer_of(config)["inbound_nodes"] = [call]
    refuse(packed(config, arrays), path, "constants alone")


def test_graphs_of_tf_keras_come_to_an_end(of_tf_keras, path):
    config, arrays = copy.deepcopy(of_tf_keras)
    layer_of(config)["inbound_nodes"][0][1] = 5
    refuse(packed(config, arrays), path, "inputs never come")
    config, arrays = copy.deepcopy(of_tf_keras)
    layer_of(config)["inbound_nodes"][0][3] = {"y": [layer_of(config)["name"], 0, 0]}
    refuse(packed(config, arrays), path, "inputs never come")
    config, arrays = copy.deepcopy(of_tf_keras)
    layer_of(config, 1)["inbound_nodes"] = []
    refuse(packed(config, arrays), path, "inputs never come")


def test_shared_and_nested_graphs_of_both_libraries_are_read(tmp_path):
    path = tmp_path / "model.sws"
    for library in (keras, pytest.importorskip("tf_keras")):
        inputs, dense = library.Input((4,)), library.layers.Dense(4)
        inner, outer = (
            library.Sequential([library.Input((4,)), library.layers.Dense(4)]) for _ in range(2)
        )
        middle = library.Model(inputs, dense(inner(dense(inputs))))
        model = library.Model(inputs, outer(middle(middle(outer(inputs)))))
        sws.save_compressed(model, path)
        loaded = sws.load_compressed(path)
        x = np.eye(4, dtype="float32")
        np.testing.assert_array_equal(loaded(x), model(x))


def test_long_unrolled_recurrences_of_tf_keras_are_refused(path):
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.Input((4, 2)), tf_keras.layers.GRU(2, unroll=True)])
    config = config_of(model, tf_keras)
    path.write_bytes(packed(config, values_of(model)))
    assert sws.load_compressed(path).layers[0].unroll
    text = json.dumps(config).replace("[null, 4, 2]", "[null, 100000, 2]")
    refuse(packed(text.encode(), values_of(model)), path, "100000 steps")
