"""Random changes of files, for the tests and benchmarks of their readers."""


def mutate(data, generator):
    """Makes a few random changes: flips, new bytes, cuts, repeats, swaps."""
    data = bytearray(data)
    for _ in range(generator.integers(1, 4)):
        start = int(generator.integers(0, len(data) + 1))
        length = int(generator.integers(1, 9))
        kind = generator.integers(0, 5)
        if kind == 0 and start < len(data):
            data[start] ^= 1 << int(generator.integers(0, 8))
        elif kind == 1:
            data[start : start + length] = generator.bytes(length)
        elif kind == 2:
            del data[start : start + length]
        elif kind == 3:
            data[start:start] = data[start : start + length]
        else:
            data[start : start + 1] = generator.choice([b"\xff" * length, b"\0", b"\x80\x80"])
    return bytes(data)
