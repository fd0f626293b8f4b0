"""The matrix of the guide: what kinds of model and training are served, each with its test.

    python tests/test_kinds.py    # writes the matrix in docs/guide.md again

A cell holds what the guide says and the test that shows it, as file::function without "test_".
"""

import ast
import functools
import pathlib

import pytest

TESTS = pathlib.Path(__file__).parent
GUIDE = TESTS.parent / "docs" / "guide.md"
START, END = "<!-- From tests/test_kinds.py. -->", "<!-- End of the matrix. -->"


def yes(test, more=""):
    """A kind that works, perhaps in a certain way."""
    return (f"yes; {more}" if more else "yes"), test


def no(why=""):
    """A kind that the library itself does not have."""
    return f"no{why and ': '}{why}", None


NONE = "\N{EN DASH}", None
FAMILIES = yes("families::stripped_predictions_are_those_of_training")
TF_KERAS = yes("tf_keras::stripped_model_is_plain_and_clustered")


def both(text, test):
    """A cell for each library, of a test that runs with both."""
    return (text, test), (text, test)


# Each row: the kind, Keras 3, tf_keras.
KINDS = {
    "Models": [
        ("Sequential; Functional; nested, with frozen layers", FAMILIES, TF_KERAS),
        (
            "subclassed",
            yes(FAMILIES[1], "with `get_config` and `build`"),
            yes(TF_KERAS[1], "weights in attributes of layers, or in lists or dicts of them"),
        ),
        ("a layer called twice; several inputs and outputs", FAMILIES, NONE),
        (
            "own activations, initializers, cells that are not registered",
            yes("own_classes::unregistered_parts_are_rebuilt"),
            NONE,
        ),
        (
            "what cannot be rebuilt from its configuration",
            (
                "refused",
                "own_classes::what_cannot_be_rebuilt_is_refused_at_wrap_time_in_a_sentence",
            ),
            NONE,
        ),
        (
            "two towers with layers of the same names",
            *both("yes", "selection::layers_of_the_same_name_in_two_models_are_told_apart"),
        ),
        (
            "a wrapped model within another, as a distiller's student",
            *both(
                "yes; strip the inner one",
                "within_another::the_inner_model_is_stripped_with_what_it_computes",
            ),
        ),
        (
            "single layers, lists of layers, `clone_model`",
            ("no: `include=`, `exclude=`", "model::other_objects_are_turned_down"),
            yes("tf_keras_layers::clone_function_wraps_chosen_layers"),
        ),
    ],
    "Layers and weights": [
        ("Dense; Conv2D; separable, depthwise; attention; LSTM", FAMILIES, TF_KERAS),
        ("Embedding", FAMILIES, NONE),
        (
            "BatchNorm, folded or not",
            yes("unshared::stripping_gives_what_the_wrapped_model_computes"),
            yes("unshared::stripping_gives_what_the_wrapped_model_computes"),
        ),
        ("Dropout", *both("yes", "training_mode::dropout_drops_in_training_only")),
        (
            "vocabularies: TextVectorization, StringLookup",
            *both("yes", "vocabularies::vocabulary_survives"),
        ),
        (
            "slopes of PReLU, learned bit widths",
            *both("not shared", "selection::slopes_are_no_kernels"),
        ),
        (
            "weights with a constraint",
            ("not shared", "selection::a_constraint_is_kept_by_not_sharing"),
            ("not shared", "selection::a_constraint_in_tf_keras"),
        ),
        (
            "SpectralNormalization",
            ("not shared", "selection::what_spectral_normalization_assigns_is_not_shared"),
            NONE,
        ),
        (
            "a layer that assigns its own weight when called",
            (
                "refused: `exclude=` it",
                "own_training::a_layer_that_assigns_its_shared_weight_is_named",
            ),
            (
                "refused: `exclude=` it",
                "own_training::a_layer_of_tf_keras_that_assigns_its_shared_weight_is_told",
            ),
        ),
        ("metrics that a layer fills", yes("own_training::metric_of_a_layer_is_filled"), NONE),
        (
            "zeros of a pruned model, `preserve_sparsity=True`",
            *both("yes", "preserve_sparsity::zeros_stay_exactly_zero"),
        ),
    ],
    "Training": [
        (
            "own `compute_loss`, `compute_metrics`",
            yes("own_training::own_loss_trains"),
            ("refused", "own_training::own_steps_are_refused_at_once"),
        ),
        (
            "own `train_step`, `test_step`, `predict_step`, `fit`",
            *both("refused", "own_training::own_steps_are_refused_at_once"),
        ),
        (
            "no loss but `add_loss`",
            *both("yes", "own_training::a_loss_added_in_the_call_is_enough"),
        ),
        ("no loss at all", *both("refused", "own_training::complexity_alone_is_no_loss")),
        (
            "losses and metrics by output",
            *both("yes", "own_training::losses_and_metrics_of_a_list_of_outputs"),
        ),
        (
            "mixed precision, float16 and bfloat16",
            yes("model::mixed_precision_for_all_layers"),
            yes("tf_keras_training::mixed_precision"),
        ),
        ("`jit_compile=True`", yes("model::jit_and_plain_train_alike"), NONE),
        (
            "EarlyStopping, ReduceLROnPlateau, best checkpoint",
            *both("yes", "epoch_memories::early_stopping_waits_for_the_finished_rule"),
        ),
        (
            "`use_ema=True`",
            *both("refused", "model::optimizer_that_averages_weights_is_refused"),
        ),
        (
            "NaN in a step",
            *both(
                "stops at the last good state",
                "callbacks::nan_in_the_first_epoch_of_a_first_fit_with_an_optimizer_that_has_slots",
            ),
        ),
        (
            "layers frozen or unfrozen after wrapping",
            *both(
                "refused: strip, wrap again", "frozen::changes_of_trainable_are_refused_by_fit"
            ),
        ),
        (
            "`enable_lora` after wrapping",
            ("refused", "frozen::weights_added_after_wrapping_are_refused_by_everything"),
            no(),
        ),
        (
            "a loop of `fit`",
            *both("yes; `AnnealAndMerge(epochs=)`", "course::a_loop_of_fits_ends_like_one_fit"),
        ),
        (
            "one epoch of unknown length",
            *both("refused", "course::one_epoch_of_unknown_length_is_refused_and_more_are_not"),
        ),
        ("a loop of your own", yes("model::custom_loop_trains_through_losses"), NONE),
        ("a stated size", *both("yes", "targets::the_file_has_the_size")),
        (
            '`codebook="uniform"`',
            *both("yes", "uniform::every_shared_tensor_is_on_its_grid"),
        ),
        (
            "several devices, TensorFlow",
            yes("distribution::mirrored_strategy_equals_one_device", "`MirroredStrategy`"),
            yes(
                "tf_keras_training::mirrored_strategy_trains_as_one_device",
                "`MirroredStrategy`, but no layer that synchronises replicas",
            ),
        ),
        (
            "several devices and machines, JAX",
            yes("distribution::data_parallel_equals_one_device", "`DataParallel`"),
            no(),
        ),
        (
            "backends JAX and torch",
            yes("backends::families_train_strip_and_export"),
            ("refused", "tf_keras_training::keras_must_run_on_tensorflow"),
        ),
        (
            "save, load, resume",
            yes(
                "model::resume_after_a_kill_equals_the_uninterrupted_run",
                "`.keras`, `BackupAndRestore`",
            ),
            yes(
                "tf_keras_training::saved_model_and_weights",
                "`.keras`, SavedModel, `BackupAndRestore`; with single layers `.h5` too",
            ),
        ),
        (
            "a wrapped model as `.h5`",
            *both("refused", "litert_inputs::a_wrapped_model_is_not_saved_as_hdf5"),
        ),
    ],
    "Files and other tools": [
        (
            "`.sws` files",
            yes("coding_files::family_comes_back_bit_for_bit"),
            yes("tf_keras::report_and_file"),
        ),
        (
            "`.sws` files of stateful recurrent layers",
            (
                "`weights_only=True`",
                "own_classes::stateful_layers_are_no_part_of_a_compressed_file",
            ),
            NONE,
        ),
        (
            'LiteRT `"float32"`, `"int8_codebook"`',
            yes("litert_formats::every_format_runs_and_agrees"),
            yes("tf_keras::litert_agrees"),
        ),
        (
            'LiteRT `"float16"`, `"sparse"`',
            yes("litert_formats::every_format_runs_and_agrees"),
            yes("mlperf_tiny::every_format_has_a_row_and_each_refusal_its_reason"),
        ),
        (
            'LiteRT `"int8"`',
            yes("litert_formats::every_format_runs_and_agrees"),
            NONE,
        ),
        (
            'LiteRT `"int4_codebook"`',
            yes("litert_formats::int4_codebook_is_an_eighth_and_exact"),
            yes("uniform::exports_lose_nothing"),
        ),
        (
            'LiteRT `"smallest"`',
            yes("litert_formats::smallest_takes_for_each_tensor_what_is_smallest"),
            yes("mlperf_tiny::every_format_has_a_row_and_each_refusal_its_reason"),
        ),
        (
            'LiteRT `"tflm"`',
            yes("litert_tflm::families_run_and_agree", "but no attention"),
            NONE,
        ),
        (
            "LiteRT with dict inputs in any order",
            yes("litert_inputs::dict_inputs_need_no_alphabetical_order"),
            NONE,
        ),
        (
            "LiteRT of subclassed models that take integers",
            yes(
                "litert_inputs::subclassed_models_take_the_integers_of_the_sample",
                "pass `sample=`",
            ),
            NONE,
        ),
        (
            "LiteRT of images of any size",
            *both("yes", "litert_inputs::made_up_images_are_large_enough"),
        ),
        (
            'LiteRT `"int8"` of Conv3D',
            (
                "stays float32, with a warning",
                "litert_inputs::int8_says_what_it_leaves_in_float",
            ),
            NONE,
        ),
        (
            'LiteRT `"sparse"` of a tied embedding',
            (
                "stays float32, with a warning",
                "litert_inputs::sparse_of_a_tied_embedding_is_a_float_file_and_says_so",
            ),
            NONE,
        ),
        (
            "before it: tfmot's pruning",
            no("tfmot takes tf_keras only"),
            yes("pipelines::pruning_is_kept"),
        ),
        (
            "after it: tfmot's CQAT and PCQAT",
            no("tfmot takes tf_keras only"),
            yes("pipelines::quantization_aware_training_keeps_clusters"),
        ),
        (
            'after it: `quantize("int8")` of Keras',
            yes("pipelines::keras_quantizes_to_int8", "Dense layers"),
            no(),
        ),
        (
            "after it: AI Edge Quantizer",
            yes("pipelines::ai_edge_quantizer_keeps_clusters"),
            NONE,
        ),
    ],
}


def to_table(name, rows):
    """One table of the matrix, as Markdown."""
    lines = [f"| {name} | Keras 3 | tf_keras |", "|---|---|---|"]
    lines += [f"| {kind} | {one[0]} | {other[0]} |" for kind, one, other in rows]
    return "\n".join(lines)


def matrix():
    """The part of the guide from the line that begins the matrix to that which ends it."""
    tables = [to_table(name, rows) for name, rows in KINDS.items()]
    return "\n\n".join([START, *tables, END])


def parts_of_guide():
    """The guide before, in and after the matrix."""
    before, start, rest = GUIDE.read_text(encoding="utf-8").partition(START)
    old, end, after = rest.partition(END)
    assert start
    assert end
    return before, start + old + end, after


def write():
    """Puts the matrix of today into the guide."""
    before, _, after = parts_of_guide()
    GUIDE.write_text(before + matrix() + after, encoding="utf-8")


@functools.cache
def functions_in(name):
    """Names of the test functions in a file of tests."""
    tree = ast.parse((TESTS / f"test_{name}.py").read_text(encoding="utf-8"))
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


def test_the_guide_has_the_matrix_of_today():
    assert parts_of_guide()[1] == matrix(), "run python tests/test_kinds.py"


@pytest.mark.parametrize(
    "test", sorted({c[1] for rows in KINDS.values() for row in rows for c in row[1:] if c[1]})
)
def test_every_cell_has_its_test(test):
    name, _, function = test.partition("::")
    assert f"test_{function}" in functions_in(name)


def test_every_other_cell_says_no():
    cells = {cell for rows in KINDS.values() for row in rows for cell in row[1:]}
    assert {text.partition(":")[0] for text, test in cells if test is None} == {"no", NONE[0]}


if __name__ == "__main__":
    write()
