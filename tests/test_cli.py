"""The command `tfmot-sws`: what it writes, prints and returns."""

import contextlib
import json
import pathlib
import re
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from hostile import packed, values_of
from keras import layers
from rich.console import Console

import tfmot_sws as sws
import tfmot_sws_cli
from tfmot_sws.cli import _with_options
from tfmot_sws.comparison import Comparison, Row
from tfmot_sws.litert.export import FORMATS
from tfmot_sws_cli import main, parser

ROOT = pathlib.Path(sws.__file__).parents[1]


@pytest.fixture
def source(rng, tmp_path):
    """A clustered model as a .keras file."""
    model = keras.Sequential([keras.Input((12,)), layers.Dense(16), layers.Dense(3)])
    for layer in model.layers:
        values = rng.choice(np.float32([0, 0, 0, -0.2, 0.4]), layer.kernel.shape)
        layer.kernel.assign(values)
    model.save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


@pytest.fixture
def compressed(source):
    assert main(["compress", str(source), str(source.with_suffix(".sws"))]) == 0
    return source.with_suffix(".sws")


def weights(path):
    load = sws.load_compressed if path.suffix == ".sws" else keras.models.load_model
    return [np.asarray(v).tobytes() for v in load(path).variables]


def error_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("tfmot-sws: ")
    return lines[0]


def test_compress_and_decompress_give_the_model_back(source, compressed, capsys):
    target = source.with_name("again.keras")
    assert main(["decompress", str(compressed), str(target)]) == 0
    assert weights(target) == weights(compressed) == weights(source)
    assert f"({compressed.stat().st_size:,} bytes)" in capsys.readouterr().out


def test_compress_options(source, compressed):
    target = source.with_name("small.sws")
    options = ["--weights-only", "--float16-rest"]
    assert main(["compress", *options, str(source), str(target)]) == 0
    assert target.stat().st_size < compressed.stat().st_size


def test_json_of_a_conversion(source, capsys):
    target = source.with_suffix(".sws")
    assert main(["compress", "--json", str(source), str(target)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["target_bytes"] == target.stat().st_size
    assert result["source"] == str(source)


@pytest.mark.parametrize("suffix", [".keras", ".sws"])
def test_report(suffix, compressed, capsys):
    file = compressed.with_suffix(suffix)
    capsys.readouterr()
    assert main(["report", str(file)]) == 0
    assert "coded" in capsys.readouterr().out
    assert main(["report", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["coded_bytes"] == compressed.stat().st_size
    assert len(report["tensors"]) == 4


def test_export_and_its_report(compressed, capsys):
    target = compressed.with_suffix(".tflite")
    assert main(["export", str(compressed), "--format", "float32", str(target)]) == 0
    model = sws.load_compressed(compressed)
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 12)
    outputs = sws.predict_tflite(target.read_bytes(), x)
    np.testing.assert_allclose(outputs, model(x), rtol=1e-4, atol=1e-5)
    capsys.readouterr()
    assert main(["report", str(target), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["file_bytes"] == target.stat().st_size
    shapes = [sorted(t["shape"]) for t in report["tensors"] if len(t["shape"]) == 2]
    assert sorted(shapes) == [[3, 16], [12, 16]]
    kernel = next(t for t in report["tensors"] if sorted(t["shape"]) == [12, 16])
    assert kernel["stored_bytes"] == 12 * 16 * 4
    assert kernel["zeros"] == np.sum(np.asarray(model.layers[0].kernel) == 0)
    assert main(["report", str(target)]) == 0
    assert "float32" in capsys.readouterr().out


@pytest.mark.parametrize("length", [0, 5, 40, 200])
def test_damaged_tflite_is_one_line(length, compressed, capsys):
    target = compressed.with_suffix(".tflite")
    main(["export", str(compressed), str(target)])
    target.write_bytes(target.read_bytes()[:length])
    capsys.readouterr()
    assert main(["report", str(target)]) == 1
    assert re.search(r"Not a (readable )?\.tflite file", error_line(capsys))


def test_damage_is_one_line(compressed, capsys):
    compressed.write_bytes(compressed.read_bytes()[:-5])
    capsys.readouterr()
    assert main(["report", str(compressed)]) == 1
    assert "cut short" in error_line(capsys)
    target = compressed.with_name("out.keras")
    assert main(["decompress", str(compressed), str(target)]) == 1
    assert not target.exists()


def test_missing_file_is_one_line(tmp_path, capsys):
    for name in ("no.keras", "no.sws", "no.tflite"):
        assert main(["report", str(tmp_path / name)]) == 1
        assert name in error_line(capsys)


def test_file_that_is_no_keras_file_is_one_line(tmp_path, capsys):
    (tmp_path / "bad.keras").write_bytes(b"nothing")
    assert main(["report", str(tmp_path / "bad.keras")]) == 1
    error_line(capsys)


def test_wrapped_model_is_one_line(source, capsys):
    wrapped = sws.apply_soft_weight_sharing(keras.models.load_model(source), num_components=3)
    wrapped.save(source)
    assert main(["compress", str(source), str(source.with_suffix(".sws"))]) == 1
    assert "strip_soft_weight_sharing" in error_line(capsys)


def test_wrong_usage_is_two(source, capsys):
    assert main(["report", str(source.with_suffix(".onnx"))]) == 2
    assert "ends in .keras or .h5 or .sws or .tflite" in error_line(capsys)
    assert main(["compress", str(source), "out.zip"]) == 2
    assert main(["export", str(source), "--format", "float3", "out.tflite"]) == 2
    for arguments in ([], ["melt"], ["report"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_import_registers_own_classes(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_layers.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable()\n"
        "class OwnDense(keras.layers.Dense):\n"
        "    pass\n"
    )
    code = (
        "import keras, own_layers, tfmot_sws as sws\n"
        "model = keras.Sequential([keras.Input((3,)), own_layers.OwnDense(2)])\n"
        "sws.save_compressed(model, 'own.sws')\n"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "own.sws"]) == 1
    assert "OwnDense" in error_line(capsys)
    assert main(["report", "own.sws", "--import", "own_layers"]) == 0
    (tmp_path / "broken.py").write_text("class Own(:\n")
    assert main(["report", "own.sws", "--import", "broken"]) == 1
    assert "--import broken failed: SyntaxError" in error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["export", "MODEL", "out.tflite", "--format", "int3"], 2, "expected one of float32, "),
        (["export", "MODEL", "out.tflite", "--sample", "no.npz"], 1, "'no.npz': no such file"),
        (["export", "MODEL", "nowhere/out.tflite"], 1, "'nowhere': no such folder"),
        (["compress", "no.h5", "out.sws"], 1, "'no.h5': no such file"),
    ],
)
def test_names_are_checked_before_anything_is_imported(
    arguments, code, message, source, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tfmot_sws.cli", None)
    arguments = [str(source) if a == "MODEL" else a for a in arguments]
    assert main([*arguments, "--json"]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert message in json.loads(captured.out)["error"]


def test_formats_are_those_of_the_package():
    assert tfmot_sws_cli.FORMATS == FORMATS


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_files_of_tf_keras(name, tmp_path, rng):
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.Input((12,)), tf_keras.layers.Dense(16)])
    kernel = rng.choice(np.float32([0, -0.25, 0.5]), (12, 16))
    model.set_weights([kernel, np.zeros(16)])
    with warnings.catch_warnings():
        # tf_keras calls .h5 legacy.
        warnings.simplefilter("ignore")
        model.save(tmp_path / name)
    target = tmp_path / "model.tflite"
    options = ["--format", "int8_codebook"]
    assert main(["export", str(tmp_path / name), str(target), *options]) == 0
    x = rng.standard_normal((3, 12)).astype("float32")
    np.testing.assert_allclose(
        sws.predict_tflite(target.read_bytes(), x), x @ kernel, rtol=1e-4, atol=1e-5
    )
    assert main(["compress", str(tmp_path / name), str(tmp_path / "model.sws")]) == 0
    loaded = sws.load_compressed(tmp_path / "model.sws")
    assert isinstance(loaded, tf_keras.Model)
    np.testing.assert_array_equal(loaded.get_weights()[0], kernel)


def test_h5_of_keras_3(source):
    model = keras.models.load_model(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = source.with_suffix(".h5")
        model.save(path)
    assert main(["compress", str(path), str(source.with_suffix(".sws"))]) == 0
    assert weights(source.with_suffix(".sws")) == weights(source)


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_an_h5_file_with_code_needs_trust(library, tmp_path, capsys):
    k = pytest.importorskip(library)
    model = k.Sequential([k.Input((3,)), k.layers.Lambda(lambda x: 2 * x)])
    path = tmp_path / "model.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    arguments = ["export", str(path), str(tmp_path / "model.tflite")]
    assert main(arguments) == 1
    assert "unsafe" in error_line(capsys)
    assert main([*arguments, "--trust"]) == 0


def test_an_h5_file_of_weights_is_one_line(source, capsys):
    path = source.with_suffix(".weights.h5")
    keras.models.load_model(source).save_weights(path)
    assert main(["report", str(path)]) == 1
    assert "has no model" in error_line(capsys)


def test_help_is_fast_and_names_every_command():
    code = "import sys, tfmot_sws_cli as c; c.parser(); print('keras' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"
    text = parser().format_help()
    for word in ("report", "compress", "decompress", "export", "exit codes"):
        assert word in text


def test_command_as_a_program_is_quiet(compressed):
    done = subprocess.run(
        [sys.executable, "tfmot_sws_cli.py", "report", str(compressed), "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert json.loads(done.stdout)["coded_bytes"] == compressed.stat().st_size
    assert "WARNING" not in done.stderr
    assert "I0000" not in done.stderr


@pytest.fixture
def with_norm(source):
    """A .keras file of a model without zeros, with a BatchNorm behind a clustered kernel."""
    model = keras.models.load_model(source)
    for layer in model.layers:
        layer.kernel.assign(np.where(layer.kernel == 0, np.float32(0.1), layer.kernel))
    inputs = keras.Input((12,))
    x = layers.BatchNormalization(name="norm")(model.layers[0](inputs))
    keras.Model(inputs, model.layers[1](x)).save(source)
    return source


def test_warnings_are_lines_on_stderr(with_norm, capsys):
    target = with_norm.with_suffix(".tflite")
    assert main(["export", str(with_norm), str(target), "--format", "sparse"]) == 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("tfmot-sws: warning: BatchNorm layers ['norm'] directly follow")
    assert lines[1].startswith("tfmot-sws: warning: The float32 file of ")


def test_json_has_warnings_and_errors(with_norm, capsys):
    arguments = ["export", "--json", str(with_norm), str(with_norm.with_suffix(".tflite"))]
    assert main(arguments) == 0
    assert "['norm']" in json.loads(capsys.readouterr().out)["warnings"][0]
    assert main([*arguments, "--format", "int8"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert "weights='int8' needs representative_data=" in result["error"]
    assert result["warnings"] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "weights='int8' needs representative_data=, typical",
            "--format int8 needs --representative-data FILE.npz, typical",
        ),
        ("pass more representative_data, or", "pass more --representative-data, or"),
        ("Pass inputs: sample=x_test[:64].", "Pass inputs: --sample FILE.npz."),
        ("allow more with tolerance=.", "allow more with --tolerance X."),
        ("no such file: '/data/sample=3/m.sws'", "no such file: '/data/sample=3/m.sws'"),
    ],
)
def test_messages_on_the_terminal_name_options(text, expected):
    assert _with_options(text) == expected


def test_a_dense_model_is_compressed_with_a_warning(tmp_path, capsys):
    dense = tmp_path / "dense.keras"
    keras.Sequential([keras.Input((12,)), layers.Dense(16)]).save(dense)
    assert main(["compress", str(dense), str(dense.with_suffix(".sws"))]) == 0
    assert "No kernel in dense.keras is clustered" in error_line(capsys)


def test_warnings_of_others_are_not_shown(source, tmp_path, monkeypatch, capsys):
    (tmp_path / "careless.py").write_text("import warnings\nwarnings.warn('not ours')\n")
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(source), "--import", "careless"]) == 0
    assert capsys.readouterr().err == ""


def test_export_as_int8_takes_representative_data(source, rng):
    data, target = source.with_name("data.npz"), source.with_suffix(".tflite")
    x = rng.standard_normal((32, 12)).astype("float32")
    np.savez(data, x)
    options = ["--format", "int8", "--representative-data", str(data)]
    assert main(["export", str(source), str(target), *options]) == 0
    model = keras.models.load_model(source)
    assert target.read_bytes() == sws.convert_to_tflite(model, "int8", representative_data=x)


def test_export_checks_the_sample(source, capsys):
    sample, target = source.with_name("sample.npz"), source.with_suffix(".tflite")
    np.savez(sample, np.full((2, 12), np.nan, "float32"))
    assert main(["export", str(source), str(target), "--sample", str(sample)]) == 1
    line = error_line(capsys)
    assert "itself computes nothing but NaN" in line
    assert "Pass typical inputs: --sample FILE.npz" in line
    assert not target.exists()


def test_export_says_how_far_outputs_are_and_takes_a_tolerance(source, capsys):
    target = source.with_suffix(".tflite")
    arguments = ["export", str(source), str(target), "--format", "float16"]
    assert main([*arguments, "--tolerance", "1e-9"]) == 1
    assert "allow more with --tolerance X" in error_line(capsys)
    assert not target.exists()
    assert main([*arguments, "--tolerance", "inf"]) == 0
    assert "% of the classes the same" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["relative_error"] < 0.05
    assert result["agreement"] == 1.0
    with pytest.raises(SystemExit):
        main([*arguments, "--tolerance", "-1"])


def test_bad_inputs_are_one_line(source, capsys):
    data, target = source.with_name("data.npz"), source.with_suffix(".tflite")
    arguments = ["export", str(source), str(target), "--sample", str(data)]
    assert main(arguments) == 1
    assert "no such file" in error_line(capsys)
    data.write_bytes(b"no zip file")
    assert main(arguments) == 1
    assert "no readable .npz file" in error_line(capsys)
    np.savez(data, a=np.zeros(1), b=np.zeros(1))
    assert main(arguments) == 1
    assert "expected one for each input" in error_line(capsys)


def test_trust_runs_lambda_layers(source, capsys):
    model = keras.Sequential([keras.Input((3,)), layers.Lambda(lambda x: 2 * x)])
    model.save(source)
    arguments = ["export", str(source), str(source.with_suffix(".tflite"))]
    assert main(arguments) == 1
    line = error_line(capsys)
    assert "'Lambda', which holds code" in line
    assert "--trust" in line
    assert main([*arguments, "--trust"]) == 0


HOSTILE_NAME = "a\x1b[2J\x07\r\n[bold red]b:boom:\u202ec"
SHOWN_NAME = r"a\x1b[2J\x07\r\n[bold red]b:boom:\u202ec"
# What would move the cursor, ring, or turn the direction of writing.
CONTROL = set("\x1b\x07\r\u202e")


def test_names_from_files_are_shown_as_text(source, capsys):
    model = keras.models.load_model(source)
    model.layers[0].name = HOSTILE_NAME
    model.layers[0].kernel.assign(np.zeros((12, 16)))
    file = source.with_suffix(".sws")
    sws.save_compressed(model, file)
    assert main(["report", str(file)]) == 0
    assert not set(capsys.readouterr().out) & CONTROL
    console = Console(width=400, color_system="truecolor", force_terminal=True)
    with console.capture() as captured:
        sws.compression_report(sws.load_compressed(file)).print(console)
    # Once in the table, once among the tensors that are all zero.
    assert captured.get().count(f"{SHOWN_NAME}/kernel") == 2


def test_messages_about_files_are_shown_as_text(source, capsys):
    model = keras.models.load_model(source)
    config = keras.saving.serialize_keras_object(model)
    config["config"]["layers"][1]["class_name"] = HOSTILE_NAME
    config["config"]["layers"][1]["config"][HOSTILE_NAME + "_activation"] = HOSTILE_NAME
    file = source.with_suffix(".sws")
    file.write_bytes(packed(config, values_of(model)))
    for json_flag in ([], ["--json"]):
        assert main(["report", str(file), *json_flag]) == 1
        captured = capsys.readouterr()
        assert not set(captured.err + captured.out) & CONTROL
    with pytest.raises(sws.CompressedFileError) as caught:
        sws.load_compressed(file)
    assert str(caught.value).isprintable()


def test_report_shows_two_files_side_by_side(source, compressed, rng, capsys):
    dense = keras.models.load_model(source)
    dense.layers[0].kernel.assign(rng.standard_normal((12, 16)))
    other = source.with_name("dense.keras")
    dense.save(other)
    capsys.readouterr()
    assert main(["report", str(other), str(compressed), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    kernel = result["tensors"][0]
    assert kernel["path"].endswith("/kernel")
    first = sws.compression_report(dense).tensors[0]
    expected = {"num_bytes": first.coded_bytes, "zeros": 0.0, "distinct": 12 * 16}
    assert kernel["first"] == expected
    assert kernel["second"]["distinct"] == 3
    assert kernel["second"]["num_bytes"] < 12 * 16
    assert result["totals"][1]["num_bytes"] == compressed.stat().st_size
    assert result["ratio"] == pytest.approx(
        result["totals"][0]["num_bytes"] / compressed.stat().st_size
    )
    assert main(["report", str(other), str(compressed)]) == 0
    assert "192 | 3" in capsys.readouterr().out


def test_a_tensor_that_one_file_lacks_is_a_dash():
    row = Row(100, 0.5, 3)
    table = Comparison(("a", "b"), {"only": (row, None)}, (row, Row(50, 0.5, None))).table()
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(table)
    assert "100 | -" in captured.get()
    assert "2.00x" in captured.get()


def test_report_tells_of_a_file_that_is_not_as_it_would_be_written_now(source, rng, capsys):
    model = keras.models.load_model(source)
    model.layers[0].bias.assign(rng.standard_normal(16))
    model.save(source)
    target = source.with_name("half.sws")
    assert main(["compress", str(source), str(target), "--float16-rest"]) == 0
    capsys.readouterr()
    assert main(["report", str(target), "--json"]) == 0
    report, size = json.loads(capsys.readouterr().out), target.stat().st_size
    assert report["coded_bytes"] != size
    (told,) = report["warnings"]
    assert f"half.sws has {size:,} bytes." in told
    assert f"shows the {report['coded_bytes']:,} bytes" in told


def test_report_of_three_files_is_wrong_usage(source, capsys):
    assert main(["report", *[str(source)] * 3]) == 2
    assert "one or two files" in error_line(capsys)


@pytest.mark.parametrize(("options", "shown"), [([], True), (["--quiet"], False)])
def test_steps_are_named_on_a_terminal_unless_quiet(options, shown, source, monkeypatch):
    named = []

    def status(_console, text):
        named.append(str(text))
        return contextlib.nullcontext()

    monkeypatch.setattr(Console, "status", status)
    target = str(source.with_suffix(".sws"))
    assert main(["compress", str(source), target, *options]) == 0
    steps = ["Reading model.keras ...", "Compressing model.keras ..."]
    assert named == (steps if shown else [])
