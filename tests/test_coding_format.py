"""Compares the package with a second reader of `.sws` files, written from docs/format.md."""

import json
import math
import re
import zlib

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_sws as sws
from tfmot_sws.coding import indices as coder
from tfmot_sws.coding.text import shipped_sample

DTYPES = "float32 float16 bfloat16 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64"
MASK = 2**64 - 1


class Bytes:
    def __init__(self, data):
        self.data, self.place = data, 0

    def take(self, size):
        self.place += size
        return self.data[self.place - size : self.place]

    def varint(self):
        number, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7

    def block(self):
        size, deflated = divmod(self.varint(), 2)
        data = self.take(size)
        return zlib.decompress(data, -15) if deflated else data

    def at_end(self):
        return self.place == len(self.data)


def read_file(data):
    """Returns the text of the architecture and all arrays."""
    file = Bytes(data)
    assert file.take(4) == b"SWS\x04"
    present, sections = file.take(1)[0], {}
    for number in range(3):
        if present >> number & 1:
            sections[number] = file.take(file.varint())
            check = int.from_bytes(file.take(4), "little")
            assert check == zlib.crc32(sections[number], number)
    assert file.at_end()
    text = read_text(Bytes(sections[0])) if 0 in sections else None
    return text, read_tensors(Bytes(sections[1]), Bytes(sections.get(2, b"")))


def read_text(section):
    method = section.take(1)[0]
    bits = Bits(section.take(section.varint())) if method else None
    inflate = zlib.decompressobj(-15, zdict=shipped_sample())
    text = inflate.decompress(section.data[section.place :])
    return Predicted(bits, text.decode().split("\n")).text() if method else text


def read_tensors(tensors, indices):
    table, rows = Bytes(tensors.block()), []
    while not table.at_end():
        number, has_dtype = divmod(table.varint(), 2)
        dtype = table.take(1)[0] if has_dtype else 0
        shape = tuple(table.varint() for _ in range(table.varint()))
        storage, codebook = (number, 0) if number < 5 else (6 - number % 2, (number - 5) // 2)
        rows.append((shape, (DTYPES + " bool").split()[dtype], storage, codebook))
    count = max([codebook + 1 for _, _, s, codebook in rows if s >= 5], default=0)
    sizes = [tensors.varint() for _ in range(count)]
    plain = iter(read_plain(tensors, [row for row in rows if row[2] < 2]))
    coded = iter(read_coded(indices, [row for row in rows if row[2] >= 4], sizes))
    arrays = []
    for shape, dtype, storage, _ in rows:
        if storage in (2, 3):
            arrays.append(np.full(shape, storage - 2, dtype))
        else:
            arrays.append(next(plain if storage < 2 else coded).astype(dtype))
    return arrays


def read_plain(tensors, rows):
    if not rows:
        return []
    data, found = Bytes(tensors.block()), {}
    stored = ["float16" if storage else dtype for _, dtype, storage, _ in rows]
    for dtype in dict.fromkeys(stored):
        mine = [number for number, other in enumerate(stored) if other == dtype]
        sizes = [math.prod(rows[number][0]) for number in mine]
        width = np.dtype(dtype).itemsize
        planes = np.frombuffer(data.take(sum(sizes) * width), np.uint8)
        numbers = planes.reshape(width, -1).T.tobytes()
        for number, part in zip(
            mine, np.split(np.frombuffer(numbers, dtype), np.cumsum(sizes)[:-1]), strict=True
        ):
            found[number] = part.astype(rows[number][1]).reshape(rows[number][0])
    return [found[number] for number in range(len(rows))]


def read_coded(indices, rows, sizes):
    streams = iter([indices.take(indices.varint()) for row in rows if row[2] == 6])
    bits = Bits(indices.data[indices.place :])
    reader, numbers, adaptive = Numbers(bits), Numbers(bits), Adaptive(bits)
    grids = iter([*read_grids(bits, reader, sizes.count(0))])
    codebooks = [reader.read(size) if size else next(grids) for size in sizes]
    for shape, _, storage, codebook in rows:
        if storage == 4:
            yield numbers.read(math.prod(shape)).reshape(shape)
            continue
        values = codebooks[codebook]
        if storage == 6:
            symbols = read_bulk(next(streams), shape, len(values))
        else:
            symbols = adaptive.read(shape, codebook, len(values))
        yield np.concatenate([[0], values])[symbols].reshape(shape)


def read_grids(bits, reader, count):
    mixer = Mixer(3, 30000, 8, 1)
    for step in reader.read(count) if count else []:
        values, last = [], 2
        for i, k in enumerate([*range(-7, 0), *range(1, 8)]):
            last = mixer.bit(bits, (abs(k), i, 3 * i + last))
            values += [np.float32(k) * step] * last
        yield np.array(values, np.float32)


class Numbers:
    def __init__(self, bits):
        self.bits, self.tensors, self.fields, self.places = bits, 0, [0, 0, 0], []
        self.header, self.nonzero = Mixer(3, 30000, 8, 1), Mixer(3, 24000, 4, 3)
        self.sign, self.exponent = Mixer(4, 24000, 4, 3), Mixer(5, 16000, 8, 3)
        self.mantissa = Mixer(3, 20000, 4, 3)

    def read(self, size):
        before, self.fields = self.fields, []
        for f in range(3):
            node = 1
            for _ in range(9):
                k = 512 * f + node
                node = 2 * node + self.header.bit(self.bits, (f, k, 512 * k + before[f]))
            self.fields.append(node - 512)
        if not self.fields[0]:
            return np.zeros(size, np.float32)
        beside = self.places if len(self.places) == size else [0] * size
        found, self.places, self.last = [], [], (2, 2, 0)
        for number in range(size):
            found.append(self.number(beside[number]))
        self.tensors += 1
        return np.array(found, np.uint32).view(np.float32)

    def number(self, beside):
        (top, length, span), t = self.fields, self.tensors
        g, (z, sign, distance) = int(span > 0), self.last
        if not self.nonzero.bit(self.bits, (g, 2 + t, 4 * (2 + t) + z)):
            self.last = (1, sign, distance)
            self.places.append(0)
            return 0
        sign = self.sign.bit(self.bits, (g, 3 * g + sign, t, 3 * t + sign))
        d, found = distance, 0
        while found < min(top - 1, span if g else 254):
            x = 2 * found + g
            joint = 512 * (512 * t + d) + x
            contexts = (x, 512 * t + x, 512 * d + x, 512 * beside + x, joint)
            if not self.exponent.bit(self.bits, contexts):
                break
            found += 1
        self.last = (0, sign, found)
        self.places.append(found + 1)
        node, count = 1, min(length, span - found) if g else length
        for i in range(count):
            contexts = (2 * node + g, 16 * (2 * found + g) + node, 16 * (2 * t + g) + node)
            node = 2 * node + (
                self.mantissa.bit(self.bits, contexts) if i < 3 else self.bits.bit(32768)
            )
        return sign << 31 | top - found << 23 | (node - 2**count) << 23 - count


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def is_shape(value):
    whole = isinstance(value, list) and len(value) > 1
    return whole and all(part is None or type(part) is int for part in value)


def parts_with_class(value):
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from parts_with_class(part)
    if isinstance(value, dict) and isinstance(value.get("class_name"), str):
        yield value


class Predicted:
    """The decoder of predicted JSON."""

    def __init__(self, bits, literals):
        self.bits, self.literals = bits, literals
        self.mixer = Mixer(5, 26000, 8, 1)
        self.kind, self.kind_before, self.name, self.width = "", "", None, None
        self.done, self.names, self.shapes, self.of_key = [], [], [], {}
        self.choices, self.objects = {}, {}
        for sample in parts_with_class(json.loads(shipped_sample())):
            known = self.objects.setdefault(sample["class_name"], [])
            if list(sample) not in [list(other) for other in known]:
                known.append(sample)

    def text(self):
        return compact(self.object()).encode()

    def bit(self, key, kind=None, number=None, choice=None, before=None):
        place = (number,), (key, number), (key, kind, number)
        contexts = (*place, (key, kind, number, choice), (key, kind, number, before))
        return self.mixer.bit(self.bits, contexts)

    def literal(self):
        return json.loads(self.literals.pop(0))

    def choose(self, key, candidates):
        place = self.kind, key
        choice = self.choices.get(place, -1)
        distinct = {}
        for candidate in candidates:
            distinct.setdefault(compact(candidate), candidate)
        for number, candidate in enumerate(distinct.values()):
            if self.bit(key, self.kind, number, choice, self.kind_before):
                self.choices[place] = number
                return [candidate]
        self.choices[place] = -2
        return []

    def object(self):
        pairs = zip(self.done, self.done[1:], strict=False)
        after = [later for later, earlier in pairs if earlier == self.done[0]]
        found = self.choose("class_name", [*after[:2], *self.done, *self.objects])
        kind = found[0] if found else self.literal()
        outer = self.kind, self.kind_before, self.name
        self.kind_before = self.done[0] if self.done else self.kind
        self.kind, self.name = kind, None
        value = self.value("", list(self.objects.get(kind, [])))
        self.kind, self.kind_before, self.name = outer
        self.objects[kind] = [value, *self.objects.get(kind, [])][:4]
        self.done.insert(0, kind)
        own = [value.get("name"), (value.get("config") or {}).get("name")]
        self.names = [*[n for n in own if isinstance(n, str)][:1], *self.names][:32]
        return value

    def value(self, key, expected):
        if key == "layers" and self.bit("layers"):
            layers = []
            while self.bit("more", self.kind):
                layers.append(self.object())
            return layers
        found = self.choose(key, [*self.guesses(key, expected), *self.of_key.get(key, [])])
        value = found[0] if found else self.new_value(key, expected)
        if key == "name" and self.name is None and isinstance(value, str):
            self.name = value
        if key in ("filters", "units"):
            self.width = value
        if is_shape(value):
            self.shapes = [value, *[s for s in self.shapes if s != value]][:5]
        others = [v for v in self.of_key.get(key, []) if compact(v) != compact(value)]
        self.of_key[key] = [value, *others][:3]
        return value

    def guesses(self, key, expected):
        e = expected[0] if expected else None
        wide = [[*s[:-1], self.width] for s in self.shapes[:2] if self.width is not None]
        shapes = [*self.shapes[:1], *wide, *self.shapes[1:]]
        first = []
        if key == "name" and isinstance(e, str):
            digits = re.search(r"\d{0,9}$", e)[0]
            number = str(int(digits) + 1) if digits else "_1"
            first = [self.name or e[: len(e) - len(digits)] + number]
        elif key == "keras_history":
            first = [[name, 0, 0] for name in self.names[:8]]
        elif isinstance(e, str) and e in self.names:
            first = self.names[:8]
        elif is_shape(e):
            first = shapes
        elif isinstance(e, list) and e and all(is_shape(part) for part in e):
            first = [[shape] * len(e) for shape in shapes]
        return [*first, *expected]

    def new_value(self, key, expected):
        objects = [e for e in expected if isinstance(e, dict)]

        def by_keys(keys):
            return {k: self.value(k, [o[k] for o in objects if k in o]) for k in keys}

        for i, keys in enumerate(dict.fromkeys(tuple(o) for o in objects)):
            if self.bit("parts", key, i):
                return by_keys(keys)
        lists = {}
        for e in [*expected, *self.of_key.get(key, [])]:
            if isinstance(e, list) and e:
                lists.setdefault(len(e), e)
        for i, alike in enumerate(lists.values()):
            if self.bit("parts", key, i):
                return [self.value(key, [item]) for item in alike]
        if key and self.bit("class", key):
            return self.object()
        if self.bit("object", key):
            return by_keys(self.literal())
        return self.literal()


def matrix(shape):
    size, axes = math.prod(shape), [axis for axis in shape if axis != 1]
    if len(axes) < 2:
        return size, 1
    columns = max(n for n in range(1, min(65536, axes[-1]) + 1) if axes[-1] % n == 0)
    return size // columns, columns


def stride_of(shape, num_units):
    rows, columns = matrix(shape)
    root = math.isqrt(rows)
    candidates = [shape[-2]] if len(shape) >= 3 else []
    candidates += [num_units] if num_units and rows % num_units == 0 else []
    candidates += [root] if root * root == rows and columns > 1 else []
    return next((s for s in candidates if 2 <= s < rows), rows + 1)


class Bits:
    def __init__(self, data):
        self.data, self.place = data + bytes(6), 6
        self.low, self.high = 0, 2**48 - 1
        self.value = int.from_bytes(self.data[:6], "big")

    def bit(self, p):
        middle = self.low + ((self.high - self.low) >> 16) * p
        bit = int(self.value <= middle)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 40 == self.high >> 40:
            byte = self.data[self.place] if self.place < len(self.data) else 0
            self.place += 1
            self.low = self.low << 8 & (2**48 - 1)
            self.high = self.high << 8 & (2**48 - 1) | 255
            self.value = self.value << 8 & (2**48 - 1) | byte
        return bit


def tables():
    squash, odds = {}, 2**64
    for x in range(2816):
        squash[x] = (odds << 16) // (odds + 2**64)
        squash[-x] = squash[x] if x == 0 else 65536 - squash[x]
        odds = odds * 18518942588666869714 >> 64
    stretch, x = [], -2815
    for p in range(65536):
        while x < 2815 and squash[x] < p:
            x += 1
        stretch.append(x)
    return squash, stretch


SQUASH, STRETCH = tables()


class Mixer:
    def __init__(self, count, initial_weight, rate, prior):
        self.weights = [65536] + [initial_weight] * (count - 1)
        self.rate, self.prior = rate, prior
        self.overall, self.counters = [2**21, 0], [{} for _ in range(count)]

    def bit(self, bits, contexts):
        broad = self.counters[0].setdefault(contexts[0], [self.overall[0], 0])
        used, start = [broad], broad[0]
        for seen, context in zip(self.counters[1:], contexts[1:], strict=True):
            used.append(seen.setdefault(context, [start, 0]))
        x = [STRETCH[counter[0] >> 6] for counter in used]
        x = [x[0]] + [value - x[0] for value in x[1:]]
        total = sum(w * value for w, value in zip(self.weights, x, strict=True)) >> 16
        p = SQUASH[max(-2815, min(2815, total))]
        bit = bits.bit(p)
        error = ((bit << 16) - p) * self.rate
        self.weights = [
            w + (value * error >> 18) for w, value in zip(self.weights, x, strict=True)
        ]
        for counter in (self.overall, *used):
            step = 131072 // (2 * (counter[1] + self.prior) + 1)
            counter[0] += ((bit << 22) - counter[0]) * step >> 16
            counter[1] = min(1023, counter[1] + 1)
        return bit


class Adaptive:
    def __init__(self, bits):
        self.bits, self.units, self.number = bits, [], 0
        self.flags, self.zero = Mixer(4, 40000, 4, 3), Mixer(7, 24000, 4, 3)
        self.values = {}

    def read_flags(self, links):
        flags = [0, 0]
        for link in links:
            a, b, base = flags[-1], flags[-2], 3 * self.number + link
            contexts = (link, base, 3 * (2 * a + b) + link, 4 * base + a)
            flags.append(self.flags.bit(self.bits, contexts))
        return flags[2:]

    def read(self, shape, codebook, num_values):
        (rows, columns), num_units = matrix(shape), len(self.units)
        stride = stride_of(shape, num_units)
        linked = num_units and rows % num_units == 0
        links = [self.units[r % num_units] if linked else 2 for r in range(rows)]
        row_flags = self.read_flags(links)
        column_flags = self.read_flags([2] * columns) if columns > 1 else [1]
        if columns > 1:
            self.units = column_flags
        elif rows != num_units:
            self.units = row_flags
        self.number += 1
        self.zero.counters = [{} for _ in self.zero.counters]
        mixer = self.values.setdefault(codebook, Mixer(6, 20000, 12, 2))
        live = np.flatnonzero(column_flags).tolist()
        found = Found(rows, columns, stride)
        for row in np.flatnonzero(row_flags).tolist():
            found.row_count = found.last_in_row = 0
            for column in live:
                if self.zero.bit(self.bits, found.zero_contexts(row, column)):
                    symbol = self.symbol(mixer, found.related(row, column), num_values)
                    found.put(row, column, symbol)
        return found.symbols

    def symbol(self, mixer, related, num_values):
        node, depth = 1, max(0, num_values - 1).bit_length()
        for _ in range(depth):
            contexts = [node, 1024 * self.number + node, *(1024 * x + node for x in related)]
            node = 2 * node + mixer.bit(self.bits, contexts)
        return node - 2**depth + 1


class Found:
    """The entries of a matrix that are decoded so far, and their contexts."""

    def __init__(self, rows, columns, stride):
        self.symbols, self.stride = np.zeros((rows, columns), int), stride
        self.column_counts, self.last_in_column = [0] * columns, [0] * columns
        self.row_count = self.last_in_row = 0

    def at(self, row, column):
        return int(self.symbols[row, column]) if row >= 0 else 0

    def zero_contexts(self, r, c):
        s = self.stride
        above = [self.at(r - k, c) for k in (1, 2, 3)]
        far = [self.at(r - k, c) for k in (s, 2 * s)]
        window = [*above, *far, self.at(r - s - 1, c), self.at(r - s + 1, c)]
        return (
            0,
            r,
            c,
            4 * (above[0] > 0) + 2 * (above[1] > 0) + (far[0] > 0),
            8 * min(3, self.row_count) + min(7, self.column_counts[c]),
            sum(x > 0 for x in window),
            1024 * above[0] + far[0],
        )

    def related(self, r, c):
        near = self.at(r - 1, c), self.at(r - self.stride, c)
        return (self.last_in_row, self.last_in_column[c], *near)

    def put(self, r, c, symbol):
        self.symbols[r, c] = self.last_in_row = self.last_in_column[c] = symbol
        self.row_count += 1
        self.column_counts[c] += 1


class Range:
    def __init__(self, data):
        words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").tolist()
        self.words = iter([*words, 0, 0])
        self.lower, self.range = 0, MASK
        self.point = next(self.words) << 32 | next(self.words)

    def symbol(self, frequencies):
        size, total = len(frequencies), 0
        scale, left = np.float32(2**24 - size) / np.float32(sum(frequencies)), [0]
        for number, frequency in enumerate(frequencies[:-1], 1):
            total += frequency
            left.append(int(np.float32(total) * scale) + number)
        left.append(2**24)
        unit = self.range >> 24
        quantile = (self.point - self.lower & MASK) // unit
        symbol = max(i for i in range(size) if left[i] <= quantile)
        self.lower = self.lower + unit * left[symbol] & MASK
        self.range = unit * (left[symbol + 1] - left[symbol])
        if self.range < 2**32:
            self.lower, self.range = self.lower << 32 & MASK, self.range << 32
            self.point = self.point << 32 & MASK | next(self.words, 0)
        return symbol


def frequencies(counts):
    return [1 + (count << 16) // sum(counts) for count in counts]


def zero_frequencies(pairs):
    overall = [1 + sum(pair[i] for pair in pairs) for i in (0, 1)]
    prior = [1 + 32768 * count // sum(overall) for count in overall]
    return [frequencies([4096 * pair[i] + prior[i] for i in (0, 1)]) for pair in pairs]


def read_bulk(data, shape, num_values):
    (rows, columns), coder_ = matrix(shape), Range(data)
    stride = stride_of(shape, 0) if stride_of(shape, 0) <= rows else 1
    share = coder_.symbol([1] * 16)
    live = [c for c in range(columns) if coder_.symbol([31 - 2 * share, 1 + 2 * share])]
    row_counts, value_counts, column_counts = [1] * 10, [1] * num_values, [0] * len(live)
    pairs, symbols, start = [[0, 0] for _ in range(400)], np.zeros((rows, columns), int), 0
    while start < rows:
        size = max(1, min(8192 // max(1, len(live)), start // 4))
        block = range(start, min(rows, start + size))
        start, distance, table = start + size, max(stride, size), frequencies(row_counts)
        classes = [coder_.symbol(table) for _ in block]
        total = sum(count + 2 for count in column_counts)
        column_classes = [
            1
            + sum(b * total <= 12 * len(live) * (n + 2) for b in (3, 6, 9, 11, 13, 16, 24, 48))
            for n in column_counts
        ]
        table, seen, places = zero_frequencies(pairs), [], []
        for row, row_class in zip(block, classes, strict=True):
            row_counts[row_class] += 1
            for place, column in enumerate(live if row_class else []):
                context = 40 * row_class + 4 * column_classes[place]
                for k in (1, 2):
                    above = row - k * distance
                    context += (2 if k == 1 else 1) * (
                        above >= 0 and symbols[above, column] > 0
                    )
                bit = coder_.symbol(table[context])
                seen.append((context, bit))
                places += [(row, column, place)] * bit
        for context, bit in seen:
            pairs[context][bit] += 1
        table = frequencies(value_counts) if num_values > 1 else None
        for row, column, place in places:
            value = coder_.symbol(table) if table else 0
            symbols[row, column] = value + 1
            column_counts[place] += 1
        for row, column, _ in places:
            value_counts[symbols[row, column] - 1] += 1
    return symbols


@pytest.mark.parametrize("max_steps", [0, 1 << 17], ids=["bulk", "adaptive"])
def test_second_reader_agrees(max_steps, rng, tmp_path, monkeypatch):
    monkeypatch.setattr(coder, "_MAX_STEPS", max_steps)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(6, 3),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.1),
            layers.Dense(40),
            layers.Dense(1, dtype="float16"),
        ]
    )
    for variable in model.weights:
        if len(variable.shape) > 1:
            is_grid = variable.shape[0] == 3
            values = np.float32([-0.75, -0.25, 0.5] if is_grid else [0.1, -0.25, 0.3, 0.7])
            density = rng.gamma(
                0.5, 0.6, (*[1] * (len(variable.shape) - 1), variable.shape[-1])
            )
            dense = rng.choice(values, variable.shape)
            variable.assign(np.where(rng.random(variable.shape) < density, dense, 0))
    model.layers[1].set_weights([rng.standard_normal(6) for _ in range(4)])
    sws.save_compressed(model, tmp_path / "model.sws", float16_rest=max_steps == 0)
    text, arrays = read_file((tmp_path / "model.sws").read_bytes())
    assert b'"class_name":"Conv2D"' in text
    loaded = sws.load_compressed(tmp_path / "model.sws")
    for first, second in zip(loaded.variables, arrays, strict=True):
        assert np.asarray(first).tobytes() == second.tobytes()
        assert tuple(first.shape) == second.shape
