"""Compares the package with a second reader of `.sws` files, written from docs/format.md."""

import math
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
    assert file.take(4) == b"SWS\x01"
    present, sections = file.take(1)[0], {}
    for number in range(3):
        if present >> number & 1:
            sections[number] = file.take(file.varint())
            check = int.from_bytes(file.take(4), "little")
            assert check == zlib.crc32(sections[number], number)
    assert file.at_end()
    inflate = zlib.decompressobj(-15, zdict=shipped_sample())
    text = inflate.decompress(sections[0]) if 0 in sections else None
    return text, read_tensors(Bytes(sections[1]), Bytes(sections.get(2, b"")))


def read_tensors(tensors, indices):
    table, rows = Bytes(tensors.block()), []
    while not table.at_end():
        number, has_dtype = divmod(table.varint(), 2)
        dtype = table.take(1)[0] if has_dtype else 0
        shape = tuple(table.varint() for _ in range(table.varint()))
        storage, codebook = (number, 0) if number < 2 else (2 + number % 2, (number - 2) // 2)
        rows.append((shape, (DTYPES + " bool").split()[dtype], storage, codebook))
    codebooks = []
    for _ in range(max([codebook + 1 for _, _, s, codebook in rows if s >= 2], default=0)):
        size, form = divmod(tensors.varint(), 4)
        assert form < 2
        dtype = ("<f4", "<f2")[form]
        codebooks.append(np.frombuffer(tensors.take(size * int(dtype[2])), dtype))
    plain = iter(read_plain(tensors, [row for row in rows if row[2] < 2]))
    symbols = iter(read_symbols(indices, [row for row in rows if row[2] >= 2], codebooks))
    arrays = []
    for _, dtype, storage, codebook in rows:
        if storage < 2:
            arrays.append(next(plain))
        else:
            values = np.concatenate([[0], codebooks[codebook]])
            arrays.append(values[next(symbols)].astype(dtype))
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


def read_symbols(indices, rows, codebooks):
    streams = iter([indices.take(indices.varint()) for row in rows if row[2] == 3])
    adaptive = Adaptive(indices.data[indices.place :])
    for shape, _, storage, codebook in rows:
        num_values = len(codebooks[codebook])
        if storage == 3:
            yield read_bulk(next(streams), shape, num_values).reshape(shape)
        else:
            yield adaptive.read(shape, codebook, num_values).reshape(shape)


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
    def __init__(self, data):
        self.bits, self.units, self.number = Bits(data), [], 0
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
    values = np.float32([0.1, -0.25, 0.3, 0.7])
    for variable in model.weights:
        if len(variable.shape) > 1:
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
