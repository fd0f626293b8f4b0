"""Proportions that follow the usage, the means' averaged gradient, and kernels kept alive."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from families import sequential

import tfmot_sws as sws
from tfmot_sws.prior.density import DEAD
from tfmot_sws.prior.mixture import GaussianMixture
from tfmot_sws.prior.options import PriorOptions
from tfmot_sws.prior.survival import (
    USUAL_GROWTH,
    counts_kept,
    fading,
    keep_alive,
    least_weights,
)
from tfmot_sws.prior.trainable import GaussianMixturePrior

FOUR = GaussianMixture([0, -0.4, 0.1, 0.3], [0.1] * 4, [0.7, 0.1, 0.1, 0.1])


def make_prior(mixture=FOUR, slots=None, num_components=4, **options):
    prior = GaussianMixturePrior(num_components, options=PriorOptions(**options))
    prior.set_mixture(mixture, np.arange(4) if slots is None else np.array(slots))
    return prior


def seen(prior, counts):
    """Has a prior see counts; gives members and proportions."""
    members, log_usage = prior.usage_after(tf.constant(counts, tf.float32))
    prior.members.assign(members)
    prior.log_usage.assign(log_usage)
    return members.numpy(), np.exp(log_usage.numpy().astype("float64"))


# Proportions.


def test_members_go_half_way_to_each_count():
    prior = make_prior()
    prior.members.assign([10.0, 20.0, 0.0, 4.0])
    members, _ = seen(prior, [30, 20, 1, 0])
    np.testing.assert_array_equal(members, [20, 20, 0.5, 2])
    members, _ = seen(prior, [30, 20, 1, 0])
    np.testing.assert_array_equal(members, [25, 20, 0.75, 1])


def test_proportions_are_the_members_and_half_a_count():
    prior = make_prior()
    prior.members.assign([600.0, 100.0, 50.0, 0.0])
    _, proportions = seen(prior, [600, 100, 50, 0])
    np.testing.assert_allclose(
        proportions, np.array([600.5, 100.5, 50.5, 0.5]) / 752, rtol=1e-5
    )
    np.testing.assert_allclose(prior.mixture().mixing_proportions, proportions, rtol=1e-5)


@pytest.mark.parametrize("least", [0.5, 0.0, 0.8])
def test_zeros_have_at_least_their_least_proportion(least):
    prior = make_prior(least_zero_proportion=least)
    prior.members.assign([100.0, 200.0, 600.0, 100.0])
    _, proportions = seen(prior, [100, 200, 600, 100])
    zero = max(least, 100.5 / 1002)
    others = np.array([200.5, 600.5, 100.5]) / 901.5
    np.testing.assert_allclose(proportions, [zero, *(1 - zero) * others], rtol=1e-5)


def test_dead_slots_stay_dead_and_the_rest_sums_to_one():
    prior = make_prior(FOUR.select(np.array([1, 0, 1, 1], bool)), [0, 3, 5], num_components=6)
    prior.members.assign([5.0, 9.0, 9.0, 1.0, 9.0, 1.0])
    _, proportions = seen(prior, [50, 7, 7, 10, 7, 10])
    assert proportions.sum() == pytest.approx(1.0, rel=1e-6)
    np.testing.assert_array_equal(proportions > 0, [1, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(prior.log_usage.value.numpy()[[1, 2, 4]], np.float32(DEAD))


def test_zero_alone_has_all():
    prior = make_prior(GaussianMixture([0.0], [0.1], [1.0]), [0])
    _, proportions = seen(prior, [9, 0, 0, 0])
    np.testing.assert_array_equal(proportions, [1, 0, 0, 0])


def test_a_mixture_that_is_set_gives_its_proportions():
    prior = make_prior(GaussianMixture([0, 1, 2, 3], [1] * 4, [0.2, 0.5, 0.3, 0.0]))
    np.testing.assert_allclose(
        prior.mixture().mixing_proportions, [0.5, 0.3125, 0.1875, 0.0], rtol=1e-5
    )


@pytest.mark.parametrize("zero_proportion", [0.9, sws.BetaHyperprior(5.0, 1.0)])
def test_given_proportions_do_not_follow_the_usage(zero_proportion):
    prior = GaussianMixturePrior(4, zero_proportion=zero_proportion)
    prior.set_mixture(
        GaussianMixture([0, 1, 2, 3], [1] * 4, [0.9, 0.05, 0.03, 0.02]), np.arange(4)
    )
    before = prior.mixture().mixing_proportions
    seen(prior, [1, 1, 1, 1000])
    np.testing.assert_array_equal(prior.mixture().mixing_proportions, before)


# The gradient of the means.


def test_means_take_the_average_of_their_members_gradients():
    prior = make_prior()
    counts = np.array([500.0, 40.0, 0.25, 1.0])
    prior.members.assign(counts)
    upstream = tf.constant([1.0, -80.0, 3.0, 7.0])
    (variable,) = prior.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(upstream * prior.tensors().means)
    found = prior.form.by_field(tape.gradient(loss, variable.value))["means"]
    # Of a component without members it is the sum, not more than that.
    np.testing.assert_allclose(found, [-80 / 40, 3, 7], rtol=1e-6)
    np.testing.assert_allclose(prior.tensors().means, FOUR.means, rtol=1e-6)


def test_with_sgd_and_momentum_means_stay_near_their_members():
    """The sum of thousands of gradients would throw a mean beyond them in a step."""
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(512, activation="relu")
    model = keras.Sequential([keras.Input((20,)), hidden, keras.layers.Dense(5)])
    x = np.random.default_rng(0).standard_normal((500, 20)).astype("float32")
    labels = np.argmax(4 * np.asarray(model(x)), axis=1)
    model.layers[1].kernel.assign(4 * model.layers[1].kernel)
    shared = sws.apply_soft_weight_sharing(model, num_components=8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    shared.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
    callback = sws.AnnealAndMerge()
    history = shared.fit(x, labels, epochs=4, verbose=0, callbacks=[callback]).history
    assert history["accuracy"][-1] > 0.9
    for group in shared.groups:
        weights = np.concatenate([np.ravel(v) for v in group.variables])
        slots = np.concatenate([np.ravel(part) for part in group.assignments()])
        means = np.asarray(group.prior.tensors().means)
        assert np.all(np.isfinite(means))
        assert np.unique(slots).size > 3
        for slot in np.unique(slots):
            members = weights[slots == slot]
            assert abs(means[slot] - members.mean()) < 2 * np.sqrt(np.mean(weights**2))


# Counting, as a training does it.


@pytest.fixture
def shared():
    keras.utils.set_random_seed(0)
    wrapped = sws.apply_soft_weight_sharing(
        sequential(), num_components=5, train_size=64, complexity_weight=0.1
    )
    for group in wrapped.groups:
        group.prior.set_widths(assignment=0.1)
    return wrapped


def test_renewal_counts_and_holds_the_loss_under_the_new_proportions(shared):
    counts, nats = shared.sharing.counts(), 0.0
    shared.sharing.renew(counting=True)
    for group, of_group in zip(shared.groups, counts, strict=True):
        members = (1 + of_group) / 2
        np.testing.assert_allclose(group.prior.members.value, members)
        mixture, tensors = group.prior.mixture(), [np.asarray(v) for v in group.variables]
        others = mixture.mixing_proportions[1:]
        np.testing.assert_allclose(
            others / others.sum(), (members[1:] + 0.5) / (members[1:] + 0.5).sum(), rtol=1e-5
        )
        nats -= sum(mixture.log_prob(tensor).sum() for tensor in tensors)
    assert float(shared.sharing.held.read()[0]) == pytest.approx(nats, rel=1e-4)


def test_without_counting_proportions_stay(shared):
    before = [np.asarray(group.prior.log_usage) for group in shared.groups]
    shared.sharing.renew()
    for group, usage in zip(shared.groups, before, strict=True):
        np.testing.assert_array_equal(group.prior.log_usage.value, usage)
        np.testing.assert_array_equal(group.prior.members.value, 1.0)


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_train_on_batch_counts(library, rng):
    """In a loop of the user's own no callback renews."""
    model = library.Sequential([library.Input((10,)), library.layers.Dense(30)])
    shared = sws.apply_soft_weight_sharing(model, num_components=5, train_size=64)
    shared.compile(library.optimizers.SGD(0.0), "mse")
    (group,) = shared.groups
    group.prior.set_widths(assignment=0.1)
    x = rng.standard_normal((16, 10)).astype("float32")
    for _ in range(3):
        (counts,) = shared.sharing.counts()
        before = np.asarray(group.prior.members)
        shared.train_on_batch(x, np.tile(x, 3))
        np.testing.assert_allclose(group.prior.members.value, (before + counts) / 2)
    assert shared.sharing.counts()[0][1:].sum() > 0


# Kernels.

ONE_SIDED = np.linspace(0.05, 0.3, 24, dtype="float32").reshape(6, 4)


def prior_over(weights, mixture, slots):
    prior = GaussianMixturePrior(4, num_tensors=len(weights))
    prior.fit_initial(weights)
    prior.set_mixture(mixture, np.array(slots))
    return prior


def zeros_of(prior, weights):
    return [int(np.sum(index == 0)) for index in prior.assign(weights)]


def test_a_kernel_of_zeros_comes_back_by_a_narrower_width():
    weights = [ONE_SIDED, 5 * ONE_SIDED, ONE_SIDED[0]]
    mixture = GaussianMixture([0, 0.2, 1.2], [0.1] * 3, [0.8, 0.1, 0.1])
    prior = prior_over(weights, mixture, [0, 1, 2])
    # The second tensor is the more sensitive one.
    prior.sensitivities.assign([0.0, 1.0, 0.0])
    price = 0.15**2 / prior.options.width_gain
    prior.set_widths(price=price)
    before, widths = zeros_of(prior, weights), prior.widths.value.numpy()
    assert before[0] == 24
    assert before[1] < 24
    keep_alive([prior], [weights])
    assert 24 - zeros_of(prior, weights)[0] >= least_weights(24)
    narrowing = prior.narrowing.value.numpy()
    # No more than it needed; the others' widths, and a bias, are left alone.
    np.testing.assert_array_equal(narrowing[1:], 1)
    assert 2.0**-10 <= narrowing[0] <= 2.0**-0.25
    np.testing.assert_allclose(prior.widths.value, widths * narrowing, rtol=1e-5)
    prior.widths.assign(widths * narrowing * np.float32([2 ** (1 / 64), 1, 1]))
    assert 24 - zeros_of(prior, weights)[0] < least_weights(24)
    prior.set_widths(assignment=0.5, price=price)
    np.testing.assert_allclose(prior.widths.value, widths * narrowing / 2, rtol=1e-5)


def test_kernels_of_several_mixtures_are_cared_for_together():
    few, enough = ONE_SIDED, 5 * ONE_SIDED
    mixture = GaussianMixture([0, 0.2, 1.2], [0.1] * 3, [0.8, 0.1, 0.1])
    weights = [[few], [enough, few], [few[::-1].copy()]]
    together, alone = (
        [prior_over(tensors, mixture, [0, 1, 2]) for tensors in weights] for _ in range(2)
    )
    calls = []

    def count():
        calls.append(1)
        return [p.count(w) for p, w in zip(together, weights, strict=True)]

    keep_alive(together, weights, count=count)
    for prior, tensors in zip(alone, weights, strict=True):
        keep_alive([prior], [tensors])
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.narrowing.value, other.narrowing.value)
        np.testing.assert_array_equal(one.widths.value, other.widths.value)
    assert any(np.any(prior.narrowing.value.numpy() < 1) for prior in together)
    # Of whole strides as many as the neediest takes, then half strides and less.
    most = max(-4 * np.log2(prior.narrowing.value.numpy().min()) for prior in together)
    assert len(calls) == math.ceil(most) + 1 + 4


def test_no_more_weights_come_back_than_a_kernel_needs():
    """A thousand equal steps from 0.1 to 0.11: a whole stride would bring all of them back."""
    kernel = np.linspace(0.1, 0.11, 1024, dtype="float32").reshape(32, 32)
    mixture = GaussianMixture([0, 0.2], [0.1] * 2, [0.8, 0.2])
    prior = prior_over([kernel], mixture, [0, 1])
    keep_alive([prior], [[kernel]])
    left = 1024 - zeros_of(prior, [kernel])[0]
    assert least_weights(1024) <= left <= 5 * least_weights(1024)


@pytest.mark.parametrize("alive", [0, 10, 32, 500])
def test_a_kernel_is_counted_with_the_weights_that_it_will_keep(alive):
    prior = make_prior()
    counts = np.array([[1024 - alive, alive, 0, 0], [32, 0, 0, 0]], float)
    kept = counts_kept(prior, counts, [(32, 32), (32,)])
    expected = max(alive, least_weights(1024))
    np.testing.assert_array_equal(kept, [[1024 - expected, expected, 0, 0], [32, 0, 0, 0]])


def test_a_narrowed_width_grows_again_as_far_as_the_kernel_allows():
    weights = [ONE_SIDED]
    prior = prior_over(weights, GaussianMixture([0, 0.3], [0.1] * 2, [0.8, 0.2]), [0, 1])
    width = float(prior.widths.value[0])
    prior.narrowing.assign([0.01])
    prior.widths.assign([0.01 * width])
    for _ in range(40):
        keep_alive([prior], [weights], growth=USUAL_GROWTH)
    assert 0.01 < float(prior.narrowing.value[0]) < 1
    assert 24 - zeros_of(prior, weights)[0] >= least_weights(24)
    # Larger weights need no narrower width; without growth it stays all the same.
    narrowing = float(prior.narrowing.value[0])
    keep_alive([prior], [[9 * ONE_SIDED]])
    assert float(prior.narrowing.value[0]) == narrowing
    for _ in range(40):
        keep_alive([prior], [[9 * ONE_SIDED]], growth=USUAL_GROWTH)
    assert float(prior.narrowing.value[0]) == 1
    assert float(prior.widths.value[0]) == pytest.approx(width, rel=1e-4)


def test_with_all_growth_the_past_does_not_matter():
    widths = []
    for narrowing in (1.0, 0.3, 0.01):
        mixture = GaussianMixture([0, 0.3], [0.1] * 2, [0.8, 0.2])
        prior = prior_over([ONE_SIDED], mixture, [0, 1])
        prior.narrow(np.array([narrowing]))
        keep_alive([prior], [[ONE_SIDED]], growth=math.inf)
        widths.append(float(prior.widths.value[0]))
    np.testing.assert_allclose(widths, widths[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "trained", "left", "expected"),
    [
        ((24, 24), 576, 24, False),
        ((24, 24), 576, 23, True),
        # Where tfmot has pruned, no more can be asked for than there are.
        ((24, 24), 10, 10, False),
        ((24, 24), 10, 9, True),
        ((24, 24), 0, 0, False),
        ((1, 1), 1, 0, True),
        # Vectors are no kernels.
        ((576,), 576, 0, False),
    ],
)
def test_a_kernel_must_keep_the_root_of_its_weights(size, trained, left, expected):
    weights = np.zeros(size, np.float32)
    weights.flat[:trained] = 1.0
    prior = prior_over([weights], FOUR, range(4))
    zeros = np.array([weights.size - left], np.float32)
    assert bool(fading(prior, zeros, [weights])[0]) == expected


@pytest.mark.parametrize(
    ("mixture", "slots"),
    [
        (GaussianMixture([0, 9, -8], [0.1] * 3, [0.8, 0.1, 0.1]), [0, 2, 3]),
        (GaussianMixture([0], [0.1], [1.0]), [0]),
    ],
)
def test_where_no_mean_is_near_one_moves_to_the_largest_weight(mixture, slots):
    weights = [-ONE_SIDED]
    prior = prior_over(weights, mixture, slots)
    keep_alive([prior], [weights])
    assert zeros_of(prior, weights)[0] < 24
    assert np.any(np.isclose(prior.mixture().means, -0.3))
    assert prior.mixture().mixing_proportions.sum() == pytest.approx(1.0)


def test_narrowing_has_a_limit_however_often_a_kernel_dies():
    """At a far narrower width components that have died would win weights."""
    weights = [ONE_SIDED]
    prior = prior_over(weights, GaussianMixture([0, 9], [0.1] * 2, [0.8, 0.2]), [0, 3])
    for _ in range(5):
        keep_alive([prior], [weights])
        prior.set_mixture(GaussianMixture([0, 9], [0.1] * 2, [0.8, 0.2]), np.array([0, 3]))
    assert 2.0**-0.25 < float(prior.narrowing.value[0]) / 1e-3 <= 1
    assert {int(k) for index in prior.assign(weights) for k in np.unique(index)} <= {0, 3}


def test_a_bias_of_two_axes_may_become_zero():
    """That of attention, which begins at zero, takes nothing along."""
    inputs = keras.Input((4, 6))
    attended = keras.layers.MultiHeadAttention(2, 3)(inputs, inputs)
    shared = sws.apply_soft_weight_sharing(
        keras.Model(inputs, attended), scope="model", train_size=64, complexity_weight=0.1
    )
    (group,) = shared.groups
    for variable in group.variables:
        if variable.name == "bias":
            variable.assign(np.full(variable.shape, 1e-5))
    shared.sharing.count()
    kernels = [variable.name == "kernel" for variable in group.variables]
    assert list(group.prior.kernels) == kernels
    assert len(set(kernels)) == 2
    np.testing.assert_array_equal(group.prior.narrowing.value.numpy()[~np.array(kernels)], 1)


def test_a_kernel_that_is_exactly_zero_stays():
    weights = [np.zeros((6, 4), np.float32), ONE_SIDED]
    prior = prior_over(weights, FOUR, range(4))
    prior.set_widths(assignment=0.3)
    before = prior.widths.value.numpy(), prior.mixture()
    keep_alive([prior], [weights])
    assert zeros_of(prior, weights)[0] == 24
    np.testing.assert_array_equal(prior.narrowing.value, 1)
    np.testing.assert_array_equal(prior.widths.value, before[0])
    np.testing.assert_array_equal(prior.mixture().means, before[1].means)


def test_counting_brings_a_kernel_back(shared):
    group = shared.groups[0]
    group.prior.set_widths(assignment=50.0)
    assert np.all(group.assignments()[0] == 0)
    shared.sharing.count(following=False)
    assert np.any(group.assignments()[0] > 0)


# What so wide an assignment does to accuracy is as it may be.
@pytest.mark.filterwarnings("ignore:.* of what it had learned is lost:UserWarning")
def test_training_with_far_too_wide_assignment_leaves_no_kernel_at_zero(rng):
    x = rng.standard_normal((64, 10)).astype("float32")
    options = sws.PriorOptions(assignment_width=50.0)
    shared = sws.apply_soft_weight_sharing(sequential(), num_components=5, options=options)
    shared.compile("adam", "mse")
    callback = sws.AnnealAndMerge(assignment=sws.schedules.constant(1.0))
    shared.fit(x, x[:, :3], epochs=3, verbose=0, callbacks=[callback])
    for weights in sws.strip_soft_weight_sharing(shared).get_weights():
        assert weights.ndim == 1 or np.any(weights != 0)
