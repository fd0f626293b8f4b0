"""Writes the lists of names that a stored architecture may use, from the installed Keras.

    python tests/keras_names.py

`tests/test_allowed.py` compares the lists with the Keras that it runs on. Read the
difference before you commit it: a name goes onto the list only if nothing happens when
its class is built or called but arithmetic.
"""

import importlib.metadata
import inspect
import json
import pathlib
import sys

NAMES = pathlib.Path(__file__).parents[1] / "tfmot_sws" / "coding" / "allowed_names.json"
ARGUMENTS = pathlib.Path(__file__).parent / "data" / "allowed_arguments.json"

# Layers that run stored code, read other files, or take functions.
RUNS_CODE = {
    "DenseFeatures",
    "DynamicEmbedding",
    "DynamicLookup",
    "FlaxLayer",
    "JaxLayer",
    "Lambda",
    "TFSMLayer",
    "TorchModuleWrapper",
}
# Operations that call a function that they are given; `Function` holds a graph.
TAKES_FUNCTION = {
    "AssociativeScan",
    "Cond",
    "ForiLoop",
    "Function",
    "JVP",
    "Map",
    "Scan",
    "Switch",
    "VectorizedMap",
    "WhileLoop",
}
# `Unstack` makes as many tensors as an axis is long, whatever the file holds.
UNBOUNDED = {"Unstack"}
# Settings of quantization methods that need data and a tokenizer.
NEEDS_DATA = {"AWQConfig", "AWQDTypePolicy", "GPTQConfig", "GPTQDTypePolicy"}
LEFT_OUT = RUNS_CODE | TAKES_FUNCTION | UNBOUNDED | NEEDS_DATA
# Layers of keras.applications that are not exported.
OF_APPLICATIONS = {"CustomScaleLayer", "LayerScale", "StochasticDepth"}

# Functions of TensorFlow that layers of tf_keras may call, chosen by hand: arithmetic,
# activations, and changes of shape. None takes a function, reads a file, or makes a tensor
# from numbers alone.
TENSORFLOW = pathlib.Path(__file__).parent / "data" / "tensorflow_functions.txt"


def keras_3():
    """The classes of Keras 3 that a file may name, by module and name."""
    import keras

    classes = {}
    for room, base in {
        "constraints": keras.constraints.Constraint,
        "dtype_policies": keras.dtype_policies.DTypePolicy,
        "initializers": keras.initializers.Initializer,
        "layers": keras.layers.Layer,
        "quantizers": object,
        "regularizers": keras.regularizers.Regularizer,
    }.items():
        found = vars(getattr(keras, room))
        classes |= {f"keras.{room}.{n}": c for n, c in _named_as(found, base)}
    classes["keras.dtype_policies.DTypePolicyMap"] = keras.dtype_policies.DTypePolicyMap
    for name in ("DTypePolicy", "FloatDTypePolicy", "Model", "Sequential"):
        classes[f"keras.{name}"] = getattr(keras, name)
    for part in _subclasses(keras.Operation):
        is_layer = issubclass(part, keras.layers.Layer)
        if not is_layer or part.__name__ in {*OF_APPLICATIONS, "Functional"}:
            classes[f"{part.__module__}.{part.__name__}"] = part
    return _safe(classes)


def tf_keras_2():
    """The classes of tf_keras that a file may name, by module and name."""
    import tf_keras
    from tf_keras.src.layers.core import tf_op_layer

    classes = {}
    for room, base in {
        "constraints": tf_keras.constraints.Constraint,
        "initializers": tf_keras.initializers.Initializer,
        "layers": tf_keras.layers.Layer,
        "layers.experimental": tf_keras.layers.Layer,
        "layers.experimental.preprocessing": tf_keras.layers.Layer,
        "regularizers": tf_keras.regularizers.Regularizer,
    }.items():
        found = tf_keras
        for name in room.split("."):
            found = getattr(found, name)
        classes |= {f"keras.{room}.{n}": c for n, c in _named_as(vars(found), base)}
    for name in ("Model", "Sequential"):
        classes[f"keras.{name}"] = getattr(tf_keras, name)
    classes["keras.mixed_precision.Policy"] = tf_keras.mixed_precision.Policy
    functional = type(tf_keras.Model(inputs := tf_keras.Input((1,)), inputs))
    for part in (functional, tf_op_layer.SlicingOpLambda, tf_op_layer.TFOpLambda):
        classes[f"{part.__module__}.{part.__name__}"] = part
    return _safe(classes)


def words(library):
    """The words by which a library knows its own functions and classes, by their kind."""
    kinds = {
        kind: sorted(n for n, v in vars(getattr(library, kind)).items() if callable(v))
        for kind in ("activations", "constraints", "initializers", "regularizers")
    }
    general = {"deserialize", "get", "serialize"}
    return {kind: [n for n in names if n not in general] for kind, names in kinds.items()}


def arguments(part):
    """The names of the arguments of a class, those of its bases included."""
    names = set()
    for base in part.__mro__[:-1]:
        if "__init__" in vars(base):
            names |= set(inspect.signature(vars(base)["__init__"]).parameters)
    return sorted(names - {"self", "args", "kwargs"})


def _named_as(found, base):
    """Classes by the names that they have themselves, without aliases in lower case."""
    classes = ((n, c) for n, c in found.items() if inspect.isclass(c) and issubclass(c, base))
    return [(name, part) for name, part in classes if name[0].isupper()]


def _subclasses(part):
    for child in part.__subclasses__():
        if child.__module__.startswith("keras."):
            yield child
        yield from _subclasses(child)


def _safe(classes):
    return {
        name: part
        for name, part in sorted(classes.items())
        if name.rpartition(".")[2] not in LEFT_OUT
    }


def _by_module(classes):
    modules = {}
    for name in classes:
        module, _, short = name.rpartition(".")
        modules.setdefault(module, []).append(short)
    return modules


def write():
    """Writes both lists."""
    import keras
    import tf_keras

    lists = {
        "keras": {"classes": _by_module(keras_3()), "words": words(keras)},
        "tf_keras": {
            "classes": _by_module(tf_keras_2()),
            "words": words(tf_keras),
            "functions": TENSORFLOW.read_text().split(),
        },
    }
    NAMES.write_text(json.dumps(lists, indent=1) + "\n")
    known = {"versions": {library: importlib.metadata.version(library) for library in lists}}
    known |= {
        library: {name: arguments(part) for name, part in classes.items()}
        for library, classes in (("keras", keras_3()), ("tf_keras", tf_keras_2()))
    }
    ARGUMENTS.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(write())
