"""The codebook "uniform": its means against NumPy, its training, and the files of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from test_backends import output_on

import tfmot_sws as sws
from tfmot_sws.coding.grids import step_of
from tfmot_sws.coding.tensors import encode_tensors
from tfmot_sws.litert.file import stored_tensors
from tfmot_sws.litert.interpreter import run_tflite
from tfmot_sws.prior.initialization import initial_mixture
from tfmot_sws.prior.mixture import GaussianMixture
from tfmot_sws.prior.survival import keep_alive
from tfmot_sws.prior.trainable import GaussianMixturePrior
from tfmot_sws.training.merging import merge_components

LIBRARIES = {"keras": keras, "tf_keras": tf_keras}
INTEGERS = np.array([k for k in range(-7, 8) if k])
# A weight, which the trained networks are to take.
BITS = 2.5
each_library = pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)


def make_prior(weights, **options):
    prior = GaussianMixturePrior(15, codebook="uniform", num_tensors=len(weights), **options)
    prior.fit_initial(weights)
    return prior


@pytest.fixture
def weights(rng):
    return [
        rng.normal(0, 0.3, (80, 60)).astype("float32"),
        rng.normal(0, 0.1, 60).astype("float32"),
    ]


def rounded(step, bits):
    """A number rounded to so many significant bits, by float64 alone."""
    mantissa, exponent = np.frexp(np.float64(step))
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)


def is_on_grid(values):
    """Whether values, read in float64, are integers of at most 7 times one step."""
    values = np.unique(np.asarray(values, "float64"))
    greatest = np.abs(values).max()
    if not greatest:
        return True
    ratios = np.outer(range(1, 8), values / greatest)
    return values.size <= 15 and bool(np.any(np.all(ratios == np.rint(ratios), axis=1)))


# The mixture.


@pytest.mark.parametrize("mean_bits", [8, None])
def test_means_are_integers_times_a_rounded_step(mean_bits, weights):
    prior = make_prior(weights, mean_bits=mean_bits)
    for reach in (0.8765432, 3e-4, 12.34567):
        (variable,) = prior.trainable_variables
        value = variable.numpy()
        value[0] = reach / prior.options.learning_rates.means
        variable.assign(value)
        step = rounded(reach / 7, mean_bits or 21)
        means = prior.tensors().means.numpy()
        # The trained number is held in float32, over its learning rate.
        np.testing.assert_allclose(means[1:], step * INTEGERS, rtol=2.0 ** -(mean_bits or 21))
        # Multiples of the step, bit for bit.
        assert means[0] == 0
        step = np.float64(means[8])
        np.testing.assert_array_equal(means[1:].astype("float64"), step * INTEGERS)


@pytest.mark.parametrize("zero_proportion", [None, 0.9])
def test_the_gradient_of_the_step_is_that_of_finite_differences(zero_proportion, weights):
    prior = make_prior(weights, zero_proportion=zero_proportion)
    (variable,) = prior.trainable_variables
    with tf.GradientTape() as tape:
        loss = prior.complexity_loss([tf.constant(w) for w in weights])
    (found,) = prior.form.by_field(tape.gradient(loss, variable.value))["reach"].numpy()
    mixture = prior.mixture()

    def loss_at(reach):
        means = np.append(0, reach * INTEGERS / 7)
        moved = GaussianMixture(means, mixture.stddevs, mixture.mixing_proportions)
        return -sum(moved.log_prob(w).sum() for w in weights)

    reach, h = mixture.means[-1], 1e-4
    expected = (loss_at(reach + h) - loss_at(reach - h)) / (2 * h)
    # One member each, as a new mixture has: their places squared sum to 280 / 49.
    assert found == pytest.approx(expected / (280 / 49), rel=2e-3)


def test_the_step_follows_its_members_by_least_squares(rng):
    """If each weight moves by minus its gradient, the grid moves to where it fits best."""
    prior = make_prior([rng.normal(0, 0.3, (20, 20)).astype("float32")])
    counts = np.append(50, rng.integers(1, 40, 14)).astype("float64")
    prior.members.assign(counts)
    moves = rng.normal(size=14)
    upstream = tf.constant(np.append(0, -moves * counts[1:]), tf.float32)
    (variable,) = prior.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(upstream * prior.tensors().means)
    found = prior.form.by_field(tape.gradient(loss, variable.value))["reach"].numpy()
    integers = np.repeat(INTEGERS, counts[1:].astype(int))[:, None]
    targets = np.repeat(moves, counts[1:].astype(int))
    best, *_ = np.linalg.lstsq(integers.astype("float64"), targets, rcond=None)
    np.testing.assert_allclose(-found, 7 * best, rtol=1e-4)


def test_slots_die_without_moving_the_grid_and_none_merge(weights):
    prior = make_prior(weights, mean_bits=8)
    before = prior.tensors().means.numpy()
    counts = np.ones(15, int)
    counts[[1, 2, 9, 14]] = 0
    # A threshold at which free components would all become one.
    merge_components(prior, counts, 1e9)
    np.testing.assert_array_equal(prior.alive_slots, np.flatnonzero(counts))
    np.testing.assert_array_equal(prior.tensors().means, before)
    again = GaussianMixturePrior.from_config(prior.get_config())
    again.set_mixture(prior.mixture(), prior.alive_slots)
    np.testing.assert_array_equal(again.tensors().means, before)


def test_a_grid_covers_less_where_more_bits_are_asked_for(rng):
    weights = [rng.normal(0, 0.3, 10_000) ** 3]
    arguments = {"stddev": 1.0, "zero_proportion": 0.5, "codebook": "uniform"}
    coarse = initial_mixture(weights, 15, **arguments).means
    fine = initial_mixture(weights, 15, least_bits=2.5, **arguments).means
    for means in (coarse, fine):
        np.testing.assert_allclose(means[1:], means[8] * INTEGERS, rtol=1e-6)
    assert fine[-1] < 0.8 * coarse[-1]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("share", [0.2, 1.1, 3.4])
def test_a_kernel_of_zeros_comes_back_onto_the_grid(sign, share, rng):
    """Its largest weight is so many steps; all slots but that of the far end have died."""
    wide = rng.normal(0, 1, (30, 20)).astype("float32")
    prior = make_prior([wide, wide], mean_bits=8)
    step = prior.mixture().means[8]
    small = sign * share * step * np.linspace(0.1, 1, 24, dtype="float32").reshape(6, 4)
    weights = [wide, small.astype("float32")]
    far = GaussianMixture([0, 7 * step], [1.0, 1.0], [0.9, 0.1])
    prior.set_mixture(far, np.array([0, 14]))
    keep_alive([prior], [weights])
    assert np.any(prior.assign(weights)[1].numpy() != 0)
    living = prior.mixture().means
    assert is_on_grid(living)
    if share > 0.5:
        np.testing.assert_allclose(
            living, sorted([0, sign * round(share) * step, 7 * step], key=lambda m: (m != 0, m))
        )


# Wrong arguments.


@pytest.mark.parametrize("value", ["grid", None, 15, True, ["uniform"]])
@each_library
def test_other_codebooks_are_refused(library, value):
    with pytest.raises(ValueError, match=r"codebook must be one of \('free', 'uniform'\)"):
        sws.apply_soft_weight_sharing(network(library), codebook=value)


@each_library
def test_more_values_than_a_grid_has_are_refused(library):
    with pytest.raises(ValueError, match=r"at most 15 values.*num_components=16.*or take"):
        sws.apply_soft_weight_sharing(network(library), codebook="uniform", num_components=16)
    with pytest.raises(ValueError, match=r"bits to each.*take 3\.9 bits.*smaller file"):
        sws.apply_soft_weight_sharing(network(library), codebook="uniform", target_bits=5)


@pytest.mark.parametrize("target", [{}, {"target_bits": 1.0}, {"target_bits": 3.5}])
def test_a_grid_has_fifteen_values_whatever_the_target(target):
    shared = sws.apply_soft_weight_sharing(network(), codebook="uniform", **target)
    assert {g.prior.num_components for g in shared.groups} == {15}


# A training.


def network(library=keras):
    layers = library.layers
    library.utils.set_random_seed(3)
    return library.Sequential(
        [
            layers.Input((8, 8, 3), name="input"),
            layers.Conv2D(16, 3, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Flatten(name="flat"),
            layers.Dense(10, name="last"),
        ],
        name="net",
    )


def make_data():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((128, 8, 8, 3)).astype("float32")
    return x, (x.reshape(128, -1) @ generator.standard_normal((192, 10)) / 9).astype("float32")


def compiled(model, **settings):
    library = tf_keras if isinstance(model, tf_keras.Model) else keras
    shared = sws.apply_soft_weight_sharing(model, codebook="uniform", **settings)
    shared.compile(library.optimizers.Adam(3e-3), "mse", jit_compile=False)
    return shared


def fit(shared, *callbacks, epochs=10):
    x, y = make_data()
    callbacks = [sws.AnnealAndMerge(), *callbacks]
    settings = {"batch_size": 16, "shuffle": False, "verbose": 0}
    return shared.fit(x, y, epochs=epochs, callbacks=callbacks, **settings)


@pytest.fixture(scope="module", params=LIBRARIES)
def trained(request):
    """A wrapped model and the stripped one."""
    shared = compiled(network(LIBRARIES[request.param]), target_bits=BITS)
    fit(shared)
    return shared, sws.strip_soft_weight_sharing(shared)


def shared_values(shared, small):
    """The stripped tensors that were shared."""
    pairs = zip(shared.weight_choices, small.get_weights(), strict=True)
    return [values for choice, values in pairs if choice.shared]


def test_every_shared_tensor_is_on_its_grid(trained):
    taken = shared_values(*trained)
    kernels = [tensor for tensor in taken if tensor.ndim > 1]
    assert len(kernels) == 3
    for tensor in taken:
        assert is_on_grid(tensor)
        assert not np.signbit(tensor[tensor == 0]).any()
    for kernel in kernels:
        assert 0.05 < np.mean(kernel == 0) < 0.95
        assert np.unique(kernel).size > 3
    for group in trained[0].groups:
        means = np.asarray(group.prior.tensors().means, "float64")
        np.testing.assert_array_equal(means[1:], means[8] * INTEGERS)


def test_stripping_changes_nothing(trained):
    shared, small = trained
    x, _ = make_data()
    expected = shared.predict(x, verbose=0)
    found = small.predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.ptp(expected))


def test_the_sws_file_is_exact_and_its_codebooks_cost_some_four_bytes(trained, tmp_path):
    shared, small = trained
    sws.save_compressed(small, tmp_path / "small.sws")
    loaded = sws.load_compressed(tmp_path / "small.sws")
    for one, other in zip(small.get_weights(), loaded.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
    taken = shared_values(shared, small)
    kernels = [values for values in taken if values.ndim > 1]
    assert all(step_of(np.unique(kernel[kernel != 0])) is not None for kernel in kernels)
    # Vectors that are not shared may have codebooks of their own.
    assert encode_tensors(kernels).codebook_bytes < 5 * len(kernels)


@pytest.mark.filterwarnings("ignore:BatchNorm layers:UserWarning")
@pytest.mark.parametrize("weights", ["int4_codebook", "int8_codebook"])
def test_exports_lose_nothing(trained, weights, tmp_path):
    _, small = trained
    x, _ = make_data()
    sws.export(small, tmp_path / "small.tflite", weights=weights, sample=x[:32])
    file = (tmp_path / "small.tflite").read_bytes()
    (found,) = run_tflite(file, x[:32])
    (exact,) = run_tflite(sws.convert_to_tflite(small), x[:32])
    expected = small.predict(x[:32], verbose=0)
    assert np.abs(found - exact).max() <= 1e-5 * np.ptp(exact)
    assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)
    largest = max(stored_tensors(file), key=lambda tensor: tensor.size)
    bits = {"int4_codebook": 4, "int8_codebook": 8}[weights]
    assert largest.dtype == f"int{bits}"
    assert largest.stored_bytes == largest.size * bits // 8
    assert largest.distinct_per_channel <= 15


def test_the_target_is_reached(trained):
    shared, small = trained
    sizes = sws.coded_sizes(small)
    pairs = zip(shared.weight_choices, sizes.variables, strict=True)
    own = sizes.codebooks + sum(size for choice, (_, size) in pairs if choice.shared)
    num_weights = sum(values.size for values in shared_values(shared, small))
    assert 8 * own / num_weights == pytest.approx(BITS, rel=0.05)


@pytest.mark.slow
@each_library
def test_resume_after_a_kill_equals_the_uninterrupted_run(library, tmp_path):
    def backup():
        return library.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    class Killed(library.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    whole = compiled(network(library))
    fit(whole, epochs=4)
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(network(library)), backup(), Killed(), epochs=4)
    resumed = compiled(network(library))
    fit(resumed, backup(), epochs=4)
    pairs = zip(whole.get_weights(), resumed.get_weights(), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@each_library
def test_a_saved_wrapper_stays_on_its_grid(library, tmp_path):
    shared = compiled(network(library), num_components=7)
    fit(shared, epochs=2)
    shared.save(tmp_path / "shared.keras")
    with sws.soft_weight_sharing_scope():
        loaded = library.models.load_model(tmp_path / "shared.keras")
    for one, other in zip(shared.groups, loaded.groups, strict=True):
        assert other.prior.form.is_uniform
        np.testing.assert_array_equal(one.prior.tensors().means, other.prior.tensors().means)


def test_a_single_layer_of_tf_keras():
    layer = sws.apply_soft_weight_sharing(
        tf_keras.layers.Dense(30), codebook="uniform", train_size=128
    )
    model = tf_keras.Sequential([tf_keras.Input((8, 8, 3)), tf_keras.layers.Flatten(), layer])
    (group,) = layer.groups
    means = np.asarray(group.prior.tensors().means, "float64")
    np.testing.assert_array_equal(means[1:], means[8] * INTEGERS)
    config = model.get_config()
    with sws.soft_weight_sharing_scope():
        again = tf_keras.Sequential.from_config(config)
    assert again.layers[-1].groups[0].prior.form.is_uniform


TRAIN = """
import keras, numpy as np
import tfmot_sws as sws

keras.utils.set_random_seed(0)
hidden = keras.layers.Dense(40, "relu")
model = keras.Sequential([keras.Input((12,)), hidden, keras.layers.Dense(4)])
x = np.random.default_rng(0).standard_normal((96, 12)).astype("float32")
shared = sws.apply_soft_weight_sharing(model, codebook="uniform")
shared.compile("adam", "mse")
shared.fit(x, x[:, :4], epochs=6, verbose=0, callbacks=[sws.AnnealAndMerge()])
small = sws.strip_soft_weight_sharing(shared)
gap = np.abs(small.predict(x, verbose=0) - shared.predict(x, verbose=0)).max()
assert gap < 1e-5, gap
for kernel in (layer.kernel for layer in small.layers):
    values = np.unique(keras.ops.convert_to_numpy(kernel)).astype("float64")
    ratios = np.outer(range(1, 8), values / np.abs(values).max())
    assert 2 < values.size <= 15 and 0 in values, values
    assert np.any(np.all(ratios == np.rint(ratios), axis=1)), values
print("on its grid")
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_train_on_the_grid(backend):
    assert "on its grid" in output_on(backend, TRAIN)
