"""Keras on JAX and on torch: the families' tests run there too, in processes of their own."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
from processes import output_of

TESTS = pathlib.Path(__file__).parent

# JAX compiles every step anew, which takes its time: one family of each kind of trouble.
TESTS_OF = {"jax": "functional or subclassed or compiling", "torch": "test"}


def environment_of(backend):
    return {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1"}


@pytest.mark.slow
@pytest.mark.parametrize("backend", sorted(TESTS_OF))
def test_families_train_strip_and_export(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    files = [str(TESTS / f"test_{name}.py") for name in ("families", "compiling")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *files, "-k", TESTS_OF[backend]],
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS.parent,
        env=environment_of(backend),
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


def output_on(backend, code):
    """What the code prints in a process of its own."""
    pytest.importorskip(backend)
    return output_of(code, environment_of(backend))


def output_on_jax(code):
    return output_on("jax", code)


MEASURE = """
import json, sys
import keras, numpy as np
import tfmot_sws as sws
from tfmot_sws.training.sensitivity import measure_losses, update_sensitivity

generator = np.random.default_rng(0)
inputs, tokens = keras.Input((8, 8, 3)), keras.Input((5,), dtype="int32")
x = keras.layers.Conv2D(8, 3, use_bias=False)(inputs)
x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
x = keras.layers.GlobalAveragePooling2D()(x)
x = x + keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 8)(tokens))
model = keras.Model([inputs, tokens], keras.layers.Dense(3)(x))
for weight in model.trainable_weights:
    weight.assign(0.3 * generator.standard_normal(weight.shape))

options = sws.PriorOptions(assignment_width=0.3)
shared = sws.apply_soft_weight_sharing(model, num_components=6, train_size=64, options=options)
shared.compile("sgd", "mse")
shared.snap.assign(0.5)
x = [generator.standard_normal((16, 8, 8, 3)), generator.integers(0, 20, (16, 5))]
x = [x[0].astype("float32"), x[1].astype("int32")]
y = generator.standard_normal((16, 3)).astype("float32")
numpy = keras.ops.convert_to_numpy
names = ("sensitivities",)

def state():
    return [numpy(v) for v in shared.variables if not v.path.endswith(names)]

before = state()
update_sensitivity(shared, x, y, np.linspace(0, 2, 16, dtype="float32"))
update_sensitivity(shared, [2 * x[0], x[1]], y)
result = {
    "sensitivities": [float(f) for g in shared.groups for f in numpy(g.prior.sensitivities)],
    "losses": measure_losses(shared, x, y).tolist(),
    "changed": sum(np.any(a != b) for a, b in zip(before, state(), strict=True)).item(),
}
for group in shared.groups:
    group.prior.set_widths(assignment=200.0)
result["dead"] = [int(np.count_nonzero(g.assignments()[0])) for g in shared.groups]
shared.sharing.renew(counting=True)
result["alive"] = [int(np.count_nonzero(g.assignments()[0])) for g in shared.groups]
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def measured_on_tensorflow():
    return json.loads(output_on("tensorflow", MEASURE).splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_measures_and_keeps_alive_as_on_tensorflow(backend, measured_on_tensorflow):
    expected = measured_on_tensorflow
    found = json.loads(output_on(backend, MEASURE).splitlines()[-1])
    assert len(expected["sensitivities"]) == 4
    assert min(expected["sensitivities"]) > 0
    for name in ("sensitivities", "losses"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
    assert found["changed"] == expected["changed"] == 0
    assert max(expected["dead"]) == 0
    assert min(expected["alive"]) > 0
    assert found["alive"] == expected["alive"]


def test_a_class_of_the_main_script_says_where_to_put_it():
    code = """
import keras, numpy as np
import tfmot_sws as sws

@keras.saving.register_keras_serializable()
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x

model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), Twice()])
try:
    sws.convert_to_tflite(model)
except sws.ExportError as error:
    print(error)
"""
    assert "in a module that can be imported, not in the main script" in output_on_jax(code)


@pytest.mark.slow
def test_export_from_jax_carries_data_and_warnings():
    code = """
import warnings
import keras, numpy as np
import tfmot_sws as sws

layers = [keras.layers.Dense(32), keras.layers.Lambda(lambda x: 2 * x), keras.layers.Dense(3)]
model = keras.Sequential([keras.Input((8,)), *layers])
x = np.random.default_rng(0).standard_normal((16, 8)).astype("float32")
tflite = sws.convert_to_tflite(model, "int8", representative_data=x)
print({t.dtype for t in sws.verify_tflite(tflite, model, x).tensors if len(t.shape) > 1})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    sws.convert_to_tflite(model, "sparse")
print([w.filename for w in caught if str(w.message).startswith("The float32 file")])
"""
    assert output_on_jax(code).splitlines() == ["{'int8'}", "['<string>']"]


def test_on_jax_slices_are_read_one_after_the_other():
    """Side by side, two million weights would need 34 bytes each in between."""
    code = """
import jax
import jax.numpy as jnp
from tfmot_sws.prior.density import MixtureTensors
from tfmot_sws.prior.density_table import total_and_gradients

size = 1 << 21
mixture = MixtureTensors(*(jax.ShapeDtypeStruct((5,), jnp.float32) for _ in range(3)))
weights = [jax.ShapeDtypeStruct((size,), jnp.float32)]
program = jax.jit(total_and_gradients).lower(weights, mixture).compile()
print(program.memory_analysis().temp_size_in_bytes / size)
"""
    assert float(output_on_jax(code)) < 20
