"""The report on a .tflite file takes time in proportion to the file, whatever it refers to."""

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hostile import cheap

import tfmot_sws as sws
from tfmot_sws.litert.file import constants, parse, stored_tensors
from tfmot_sws.litert.frugal_file import read_weights
from tfmot_sws.litert.report import tflite_report


def vector(builder, start, offsets):
    start(builder, len(offsets))
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def file(*, graphs=1, tensors=1, buffers=1, name=b"w", values=bytes(16)):
    """A file whose graphs, tensors and buffers are each one thing, referred to many times."""
    builder = flatbuffers.Builder()
    text, data = builder.CreateString(name), builder.CreateByteVector(values)
    shape = builder.CreateNumpyVector(np.int32([len(values) // 4]))
    schema.BufferStart(builder)
    schema.BufferAddData(builder, data)
    buffer = schema.BufferEnd(builder)
    rows = []
    for number in range(min(buffers, tensors)):
        schema.TensorStart(builder)
        schema.TensorAddName(builder, text)
        schema.TensorAddShape(builder, shape)
        schema.TensorAddBuffer(builder, number)
        rows.append(schema.TensorEnd(builder))
    rows += [rows[0]] * (tensors - len(rows))
    rows = vector(builder, schema.SubGraphStartTensorsVector, rows)
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, rows)
    graph = schema.SubGraphEnd(builder)
    all_graphs = vector(builder, schema.ModelStartSubgraphsVector, [graph] * graphs)
    all_buffers = vector(builder, schema.ModelStartBuffersVector, [buffer] * buffers)
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, all_graphs)
    schema.ModelAddBuffers(builder, all_buffers)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_plain_file_is_read():
    (tensor,) = tflite_report(file()).tensors
    assert (tensor.name, tensor.shape, tensor.zeros) == ("w", (4,), 4)


@pytest.mark.parametrize(
    "shared",
    [
        {"graphs": 10_000, "tensors": 10_000},
        {"graphs": 100_000},
        {"tensors": 100_000},
        {"buffers": 1_000, "tensors": 1_000, "values": bytes(1 << 20)},
        {"tensors": 10_000, "name": b"x" * 500_000},
    ],
    ids=" ".join,
)
def test_parts_that_are_referred_to_many_times_are_refused(shared):
    data = file(**shared)
    with cheap(), pytest.raises(ValueError, match="many times over"):
        tflite_report(data)


def test_weights_are_those_that_litert_reads():
    model = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Conv2D(4, 3)])
    data = sws.convert_to_tflite(model, "int8_codebook")
    read = [list(constants(found)) for found in (parse(data), read_weights(data))]
    assert len(read[0]) == len(read[1]) > 0
    for (first, values), (second, same) in zip(*read, strict=True):
        assert (first.name, list(first.shape)) == (second.name, list(second.shape))
        np.testing.assert_array_equal(values, same)
    assert max(t.distinct_per_channel for t in stored_tensors(data)) > 1
