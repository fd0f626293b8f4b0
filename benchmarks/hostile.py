"""Thousands of hostile `.sws` files, read under an audit hook that sees what they touch.

    python -m benchmarks.hostile
    python -m benchmarks.hostile --loads 500 --run quick

Honest files of several models are changed at random: bytes with and without right
checksums, words and numbers of the architecture, names of classes and functions (all that
Keras, tf_keras and TensorFlow export), graphs. Each is loaded as a user would load it. A
hook of `sys.addaudithook` records every file that is opened for writing or changed, every
socket, every process, and every piece of code that is compiled or executed. Counted are
the refusals and the models that were built; measured are the longest load and the memory.
"""

import collections
import dataclasses
import faulthandler
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from keras import layers, ops

import tfmot_sws as sws
from benchmarks import common
from benchmarks.mutations import mutate
from tfmot_sws.coding.container import Section, frame, parse_sections
from tfmot_sws.coding.text import decode_text, encode_text

SEED = 0
# A load that takes longer, in seconds of the processor, ends the run with a traceback: it
# counts as a hang.
MAX_SECONDS = 100
# Loads after which the record is written.
STEP = 250
# The file that is being loaded, to look at after a hang.
LAST = pathlib.Path(tempfile.gettempdir()) / "hostile-last.sws"
NUMBERS = (
    b"0",
    b"-1",
    b"64",
    b"100000",
    b"99999999999",
    b"1e308",
    b"null",
    b"[]",
    b"{}",
    b"true",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_TOUCHED = re.compile(
    r"os\.(mkdir|rename|remove|rmdir|link|symlink|truncate|chmod|chown|putenv|system|exec|fork"
    r"|forkpty|posix_spawn|spawn|startfile)|shutil\..*|tempfile\..*|socket\..*|subprocess\..*"
    r"|urllib\..*|http\..*|ftplib\..*|smtplib\..*|pty\..*|exec|compile|code\.__new__|ctypes\..*"
    r"|pickle\..*|marshal\..*"
)


class Watch:
    """Counts the audit events of a block by what they touch; `with` turns it on."""

    def __init__(self):
        self.events = collections.Counter()
        self._on = False
        sys.addaudithook(self._see)

    def __enter__(self):
        self._on = True

    def __exit__(self, *_):
        self._on = False

    def _see(self, event, args):
        if not self._on:
            return
        if event == "open":
            path, mode, flags = args
            writes = (mode and set(mode) & set("wax+")) or (
                isinstance(flags, int) and flags & _WRITING
            )
            if writes:
                self.events[f"open for writing {path}"] += 1
        elif _TOUCHED.fullmatch(event):
            self.events[f"{event} {str(args)[:80]}"] += 1


@dataclasses.dataclass
class Base:
    """An honest file: its sections, its architecture as text, its weights as bytes."""

    name: str
    data: bytes
    sections: dict
    text: bytes
    weights: list


def bases():
    """Small models with layers, operations, texts and recurrences, of both libraries."""
    keras.utils.set_random_seed(SEED)
    for name, model in MODELS.items():
        built = model()
        file = io.BytesIO()
        sws.save_compressed(built, file)
        data = file.getvalue()
        sections = parse_sections(data)
        text = decode_text(sections[Section.ARCHITECTURE])
        yield Base(name, data, sections, text, bits_of(built))


def bits_of(model):
    """The weights of a model, as bytes."""
    return [np.asarray(keras.ops.convert_to_numpy(v)).tobytes() for v in model.weights]


def dense():
    """Two dense layers of few values."""
    model = keras.Sequential([keras.Input((12,)), layers.Dense(9, "relu"), layers.Dense(3)])
    for variable in model.weights[::2]:
        variable.assign(np.round(variable.numpy() * 4) / 4)
    return model


def graph():
    """A convolution, operations, a constant, slices."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3)(inputs)
    x = layers.BatchNormalization()(x) + np.ones(4, "float32")
    x = ops.mean(ops.reshape(ops.relu(x), (-1, 16, 4)), axis=1)
    return keras.Model(inputs, layers.Dense(3)(ops.concatenate([x, x[:, :2]], axis=-1)))


def attention():
    """Tokens, attention, a recurrence."""
    inputs = keras.Input((8,), dtype="int32")
    x = layers.Embedding(20, 6)(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 3)(x, x))
    x = layers.Bidirectional(layers.LSTM(3))(x)
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


def words():
    """Texts, cut into words by the model."""
    text = layers.TextVectorization(vocabulary=["a", "b", "c"], ngrams=2)
    return keras.Sequential(
        [keras.Input((1,), dtype="string"), text, layers.Embedding(16, 4), layers.Flatten()]
    )


def tf_keras_graph():
    """Functions of TensorFlow and an unrolled recurrence."""
    inputs = tf_keras.Input((4, 3))
    x = tf_keras.layers.LSTM(3, return_sequences=True, unroll=True)(inputs)
    x = tf.nn.relu(tf.concat([x, inputs], axis=-1) * 2.0 + 1.0)
    return tf_keras.Model(inputs, tf_keras.layers.Dense(2)(tf.reduce_mean(x, axis=1)))


MODELS = {f.__name__: f for f in (dense, graph, attention, words, tf_keras_graph)}


# Changes.


def change_bytes(base, generator):
    """Random bytes, whose checksums are wrong."""
    return mutate(base.data, generator)


def change_section(base, generator):
    """Random bytes in one section, with right checksums."""
    section = generator.choice(list(base.sections))
    return framed(base, section, mutate(base.sections[section], generator))


def change_word(base, generator):
    """Words and numbers of the architecture by others of it, or by odd numbers."""
    text = base.text
    for _ in range(generator.integers(1, 4)):
        tokens = list(re.finditer(rb"-?\d+|\w+", text))
        token = tokens[generator.integers(len(tokens))]
        other = tokens[generator.integers(len(tokens))][0]
        new = other if generator.random() < 0.5 else generator.choice(NUMBERS)
        text = text[: token.start()] + bytes(new) + text[token.end() :]
    return with_text(base, text)


def change_name(base, generator):
    """A class or a function by another that Keras, tf_keras or TensorFlow exports."""
    config = json.loads(base.text)
    parts = [part for part in dicts_in(config) if "class_name" in part]
    part = parts[generator.integers(len(parts))]
    module, name = NAMES[generator.integers(len(NAMES))]
    kind = generator.integers(5)
    function = {
        "module": module,
        "class_name": "function",
        "config": name,
        "registered_name": name,
    }
    settings = part.get("config")
    if kind == 0:
        part.update(module=module, class_name=name, registered_name=None)
    elif kind == 1:
        part.update(class_name=name)
    elif kind == 2:
        part.update(function)
    elif isinstance(settings, dict) and settings:
        key = list(settings)[generator.integers(len(settings))]
        symbol = f"{module}.{name}".removeprefix("tensorflow.")
        settings[key] = function if kind == 3 else generator.choice([name, symbol])
    return with_text(base, json.dumps(config).encode())


def change_graph(base, generator):
    """Lists of layers, calls and settings: repeated, left out, reversed, nested, swapped."""
    config = json.loads(base.text)
    lists = [v for part in dicts_in(config) for v in part.values() if isinstance(v, list) and v]
    found = lists[generator.integers(len(lists))]
    kind = generator.integers(5)
    place = generator.integers(len(found))
    if kind == 0:
        found *= int(generator.integers(2, 3000))
    elif kind == 1:
        del found[place]
    elif kind == 2:
        found.reverse()
    elif kind == 3:
        found[place] = [found[place]] * int(generator.integers(1, 50))
    else:
        other = lists[generator.integers(len(lists))]
        found[place] = other[generator.integers(len(other))]
    try:
        return with_text(base, json.dumps(config).encode())
    except (ValueError, RecursionError):
        # The list holds itself now.
        return change_graph(base, generator)


KINDS = (change_bytes, change_section, change_word, change_name, change_graph)


def with_text(base, text):
    """The file with another architecture."""
    return framed(base, Section.ARCHITECTURE, encode_text(text[: 1 << 23]))


def framed(base, section, payload):
    """The file with another section, and right checksums."""
    return b"".join(frame({**base.sections, section: payload}))


def dicts_in(config):
    """Every dict in a nested configuration."""
    if isinstance(config, dict):
        yield config
    if isinstance(config, dict | list):
        for item in config.values() if isinstance(config, dict) else config:
            yield from dicts_in(item)


def exported_names():
    """Modules and names of all functions and classes of three libraries."""
    found, seen = [("os", "system"), ("builtins", "exec"), ("subprocess", "run")], set()
    waiting = [("keras", keras), ("keras", tf_keras), ("tensorflow", tf)]
    while waiting:
        name, module = waiting.pop()
        for key in dir(module):
            value = None if key.startswith("_") else getattr(module, key, None)
            if is_part(value) and id(value) not in seen and name.count(".") < 5:
                seen.add(id(value))
                waiting.append((f"{name}.{key}", value))
            elif callable(value):
                found.append((name, key))
    return found


def is_part(value):
    """Whether this is a module of one of the libraries, and not one that loads another."""
    package = getattr(value, "__name__", "") if type(value) is types.ModuleType else ""
    return package.partition(".")[0] in ("keras", "tf_keras", "tensorflow")


NAMES = exported_names()


# Loads.


def main():
    """Loads, prints, writes; every 500 loads what there is so far."""
    parser = common.make_parser(__doc__)
    parser.add_argument("--loads", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--resume", action="store_true", help="go on with a run that ended")
    args = parser.parse_args()
    args.run = args.run or f"{args.loads}-loads"
    record = common.start_record("hostile", args) | {"names": len(NAMES), "models": [*MODELS]}
    rows, events, done = {kind.__name__: Row() for kind in KINDS}, collections.Counter(), 0
    if args.resume:
        record = json.loads((args.output / "hostile" / f"{args.run}.json").read_text())
        rows = {f"change_{name}": Row(**row) for name, row in record["rows"].items()}
        events, done = collections.Counter(record["events"]), record["done"]
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    faulthandler.register(signal.SIGPROF, chain=True)
    watch, files = Watch(), list(bases())
    check(watch)
    honest = events_of_honest_files(watch, files)
    while done < args.loads:
        until = min(done + STEP, args.loads)
        load_all(range(done, until), args.seed, files, rows, watch)
        done = until
        new = {event: n for event, n in watch.events.items() if event not in honest}
        record |= {
            "done": done,
            "rows": {n.removeprefix("change_"): dataclasses.asdict(r) for n, r in rows.items()},
            "honest_events": honest,
            "events": dict(events + collections.Counter(new)),
        }
        common.write("hostile", args, record, to_markdown(record))
        print(done, {name: row.refused for name, row in rows.items()}, flush=True)
    print(to_markdown(record))


def events_of_honest_files(watch, files):
    """What loading the files touches after the first time, when libraries load their parts."""
    for _ in range(2):
        watch.events.clear()
        for base in files:
            with watch:
                sws.load_compressed(io.BytesIO(base.data))
    honest = dict(watch.events)
    watch.events.clear()
    return honest


def load_all(numbers, seed, files, rows, watch):
    """Makes and loads the files of these numbers; each depends on seed and number alone."""
    for number in numbers:
        generator = np.random.default_rng([seed, number])
        kind = KINDS[number % len(KINDS)]
        base = files[generator.integers(len(files))]
        rows[kind.__name__].load(kind(base, generator), base, watch)


def check(watch):
    """Has the hook see what it should see."""
    with watch, tempfile.TemporaryFile() as file:
        subprocess.run([sys.executable, "-c", ""], check=True, stdout=file)
        socket.socket().close()
        exec("pass")
    seen = {event.split()[0] for event in watch.events}
    assert seen >= {"open", "subprocess.Popen", "socket.__new__", "exec"}, seen


@dataclasses.dataclass
class Row:
    """What became of the files of one kind."""

    loads: int = 0
    refused: int = 0
    loaded: int = 0
    equal: int = 0
    other: dict = dataclasses.field(default_factory=dict)
    slowest: float = 0.0
    seconds: float = 0.0
    most_mb: float = 0.0

    def load(self, data, base, watch):
        """Loads one file and counts how that ended."""
        self.loads += 1
        LAST.write_bytes(data)
        before, start = reset_peak(), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        try:
            with watch:
                model = sws.load_compressed(io.BytesIO(data))
        except sws.CompressedFileError:
            self.refused += 1
        except Exception as error:  # what a reader must never let through
            name = f"{type(error).__name__}: {str(error)[:100]}"
            self.other[name] = self.other.get(name, 0) + 1
        else:
            self.loaded += 1
            self.equal += bits_of(model) == base.weights
        took = time.process_time() - start
        self.slowest, self.seconds = max(self.slowest, took), self.seconds + took
        self.most_mb = max(self.most_mb, (peak_kb() - before) / 1024)


def reset_peak():
    """Has Linux forget the peak of the memory; returns the memory now in KiB."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_kb():
    """The peak of the memory in KiB since it was last reset."""
    return _status("VmHWM")


def _status(name):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", text)[1])


# Tables.


def to_markdown(record):
    """A table of the loads, and the list of what was touched."""
    headers = ["changed", "loads", "refused", "built", "other errors", "slowest, s", "MB"]
    cells = [
        [name, f"{r['loads']:,}", f"{r['refused']:,}", f"{r['loaded']:,}",
         sum(r["other"].values()), f"{r['slowest']:.1f}", f"{r['most_mb']:.0f}"]
        for name, r in record["rows"].items()
    ]  # fmt: skip
    table = common.to_table(headers, cells, ["left"] + ["right"] * 6)
    events = [f"- {event}: {count}" for event, count in record["events"].items()]
    note = (
        "Seconds are those of the processor for the slowest load, MB the most memory above "
        "that before a load. A model that was built has the weights of the file, or others of "
        "the same size."
    )
    return common.join(
        common.to_header(record),
        f"## Hostile files ({record['names']:,} names of Keras, tf_keras and TensorFlow)",
        common.to_section("hostile", f"{table}\n\n{note}"),
        "## Files written, sockets, processes and code, beyond those of honest files",
        common.to_section("events", "\n".join(events or ["- nothing"])),
    )


if __name__ == "__main__":
    main()
