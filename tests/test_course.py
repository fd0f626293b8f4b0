"""Trainings of one epoch, of few calls of the step, of unknown length, and loops of fits."""

import keras
import numpy as np
import pytest
import tf_keras
from families import RANDOM_NETWORKS

import tfmot_sws as sws
from tfmot_sws.training.course import Course

pytestmark = RANDOM_NETWORKS
LIBRARIES = [keras, tf_keras] if keras.backend.backend() == "tensorflow" else [keras]
EPOCHS = 4


@pytest.fixture
def x(rng):
    return rng.standard_normal((32, 4)).astype("float32")


def wrap(library=keras, **how):
    keras.utils.set_random_seed(0)
    tf_keras.utils.set_random_seed(0)
    model = library.Sequential([library.Input((4,)), library.layers.Dense(6)])
    shared = sws.apply_soft_weight_sharing(model, num_components=3, train_size=32)
    shared.compile(library.optimizers.SGD(0.01), "mse", **how)
    return shared


def fit(shared, x, callback=None, also=(), **how):
    callbacks = [callback or sws.AnnealAndMerge(), *also]
    settings = {"batch_size": 8, "shuffle": False, "verbose": 0, **how}
    return shared.fit(x, np.tile(x, 2)[:, :6], callbacks=callbacks, **settings).history


def state(shared):
    values = [*shared.inner.get_weights(), *shared.sharing.get_weights()]
    return [np.array(value) for value in values]


@pytest.fixture(scope="module", params=LIBRARIES, ids=lambda library: library.__name__)
def once(request):
    """The library, and the state and snaps after all epochs in one fit."""
    x = np.random.default_rng(20170211).standard_normal((32, 4)).astype("float32")
    shared = wrap(request.param)
    return request.param, fit(shared, x, epochs=EPOCHS)["snap"], state(shared)


@pytest.mark.parametrize("way", ["epochs=1", "epochs=2", "initial_epoch"])
def test_a_loop_of_fits_ends_like_one_fit(once, way, x):
    library, expected, values = once
    shared, callback, snaps = wrap(library), sws.AnnealAndMerge(epochs=EPOCHS), []
    for epoch in range(0, EPOCHS, 2 if way == "epochs=2" else 1):
        how = {"epochs": int(way[-1])} if way != "initial_epoch" else {"epochs": epoch + 1}
        if way == "initial_epoch":
            # That of a script which was started again.
            how["initial_epoch"], callback = epoch, sws.AnnealAndMerge(epochs=EPOCHS)
        snaps += fit(shared, x, callback, **how)["snap"]
    assert snaps == expected
    assert snaps[0] < snaps[-1] == 1.0
    for one, other in zip(state(shared), values, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert sws.strip_soft_weight_sharing(shared)


@pytest.mark.parametrize("initial", [0, 1])
def test_a_loop_of_whole_trainings_is_told(initial, x):
    shared = wrap()
    fit(shared, x)
    with pytest.warns(UserWarning, match=r"ended at 100%.* pass the same AnnealAndMerge\("):
        fit(shared, x, initial_epoch=initial, epochs=initial + 1)


def test_a_loop_of_new_callbacks_is_told(x):
    shared = wrap()
    fit(shared, x, sws.AnnealAndMerge(epochs=EPOCHS))
    with pytest.warns(UserWarning, match="starts at 0% of a training, .* ended at 25%"):
        fit(shared, x, sws.AnnealAndMerge(epochs=EPOCHS))


def test_a_second_training_is_no_loop(x):
    shared = wrap()
    for _ in range(2):
        fit(shared, x, sws.AnnealAndMerge(epochs=1))
        fit(shared, x, epochs=2)


def test_strip_in_the_middle_of_a_loop_tells_of_the_rest(x):
    shared = wrap()
    callback = sws.AnnealAndMerge(epochs=8)
    fit(shared, x, callback)
    with pytest.warns(UserWarning, match=r"only \d+% of the way.*AnnealAndMerge\(epochs=\)"):
        sws.strip_soft_weight_sharing(shared)


def test_more_fits_than_epochs_are_refused_before_any_step(x):
    shared, callback = wrap(), sws.AnnealAndMerge(epochs=2)
    fit(shared, x, callback, epochs=2)
    before = state(shared)
    with pytest.raises(ValueError, match=r"epochs=2\) would have this fit go on to epoch 3"):
        fit(shared, x, callback)
    for one, other in zip(state(shared), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("epochs", [0, 2.0, True, "2"])
def test_epochs_out_of_range(epochs):
    with pytest.raises(ValueError, match="epochs must be an integer from 1"):
        sws.AnnealAndMerge(epochs=epochs)


def test_a_training_has_the_number_of_epochs_of_its_fits():
    course = Course(10)
    course.begin(4)
    course.place(0)
    assert [course.number(epoch) for epoch in range(4)] == [0, 1, 2, 3]
    course.done = 4
    course.begin(4)
    course.place(0)
    assert [course.number(epoch) for epoch in range(4)] == [4, 5, 6, 7]
    assert course.fraction_done == 0.4
    course.begin(10)
    course.place(9)
    assert course.number(9) == 9
    course.done = 10
    course.begin(4)
    with pytest.raises(ValueError, match="go on to epoch 14"):
        course.place(0)


def test_a_front_has_the_epochs_of_all_fits(x, tmp_path):
    shared, callback = wrap(), sws.AnnealAndMerge(epochs=EPOCHS)
    front = sws.ParetoFront(tmp_path, "loss")
    for _ in range(EPOCHS):
        fit(shared, x, callback, also=[front])
    # Every fit's own epoch is 0; the last of all is not beaten by those before it.
    assert EPOCHS in {record.epoch for record in front.records}
    files = {record.file for record in front.records}
    assert {path.name for path in tmp_path.glob("*.sws")} == files


# Too few calls of the step.


@pytest.mark.parametrize(
    ("how", "fraction"),
    [
        ({"batch_size": 32}, 0),
        ({"steps_per_execution": 4}, 0),
        ({"snap_at": 0.6, "batch_size": 16}, 50),
        ({"snap_at": 0.9, "epochs": 2}, 88),
    ],
)
def test_too_few_calls_are_refused_before_any_step(how, fraction, x):
    how = dict(how)
    compile_how = {k: how.pop(k) for k in ("steps_per_execution",) if k in how}
    snap = sws.schedules.linear(0.0, 1.0, start=how.pop("snap_at", 0.05))
    shared = wrap(**compile_how)
    before = state(shared)
    with pytest.raises(ValueError, match=f"begins at {fraction}% of the training.*execution"):
        fit(shared, x, sws.AnnealAndMerge(snap=snap), **how)
    for one, other in zip(state(shared), before, strict=True):
        np.testing.assert_array_equal(one, other)


# Keras says so of every generator that ends.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("library", LIBRARIES)
def test_one_epoch_of_unknown_length_is_refused_and_more_are_not(library, x):
    def batches():
        for i in range(0, 32, 8):
            yield x[i : i + 8], np.tile(x, 2)[i : i + 8, :6]

    def fit_once(callback):
        how = {"shuffle": False, "verbose": 0, "callbacks": [callback]}
        return shared.fit(batches(), **how).history

    shared = wrap(library)
    with pytest.raises(ValueError, match=r"begins at 0% of the training.*steps_per_epoch="):
        fit_once(sws.AnnealAndMerge())
    # Each epoch of a loop begins it anew.
    callback, snaps = sws.AnnealAndMerge(epochs=EPOCHS), []
    for _ in range(EPOCHS):
        snaps += fit_once(callback)["snap"]
    # At the beginning of each epoch, from 5 to 20 %.
    assert snaps == [0.0, 1.0, 1.0, 1.0]
