"""The workload programs, run as the platform runs them: train, predict, evaluate, serve."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from airflow_bitahub.demo import dataset
from tests.ports import free_port
from tests.workloads.tensorflow_forks import TensorFlowForks

pytestmark = [pytest.mark.tensorflow, pytest.mark.long]

PROGRAMS = Path(__file__).parents[2] / "dags" / "workloads" / "dense-mnist-tf"


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Return options as the command line has them."""
    return [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]


class Workload:
    """One set of folders, and the programs to run on them."""

    def __init__(self, python: str | Path, prepared: dataset.Dataset, root: Path) -> None:
        self.python = python
        self.prepared = prepared
        self.data = prepared.folder / "mnist"
        self.model = root / "dense-mnist-tf"
        self.output = root / "output"
        self.predictions = self.output / "prediction_results.npy"
        self.result = self.output / "evaluation_result.json"
        self.first_result: dict[str, float] = {}

    def run(self, program: str, *flags: str, **options: Path) -> subprocess.CompletedProcess[str]:
        command = [self.python, "-B", PROGRAMS / program, *flags, *arguments(options)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def chain(self, forks: TensorFlowForks) -> dict[str, float]:
        """Train, predict, evaluate; return the evaluation's result."""
        for program, options in (
            ("train.py", {"data_dir": self.data, "output_dir": self.model}),
            ("predict.py", {"model_dir": self.model, "data_dir": self.data, "output_dir": self.output}),
            (
                "evaluate.py",
                {"label_dir": self.data, "predictions": self.predictions, "output_dir": self.output},
            ),
        ):
            forks.start(PROGRAMS / program, arguments(options))
            assert forks.wait() == 0, forks.errors
        result: dict[str, float] = json.loads(self.result.read_text())
        return result


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dataset.Dataset:
    return dataset.prepare(tmp_path_factory.mktemp("data"), cache=tmp_path_factory.mktemp("cache"), mirrors=())


@pytest.fixture(scope="module")
def forks(tensorflow_python: str | Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TensorFlowForks]:
    with TensorFlowForks(tensorflow_python, tmp_path_factory.mktemp("forks")) as forks:
        yield forks


@pytest.fixture(scope="module")
def trained(
    tensorflow_python: str | Path,
    forks: TensorFlowForks,
    prepared: dataset.Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Workload:
    workload = Workload(tensorflow_python, prepared, tmp_path_factory.mktemp("trained"))
    workload.first_result = workload.chain(forks)
    return workload


def test_model_is_a_saved_model(trained: Workload) -> None:
    assert (trained.model / "saved_model.pb").is_file()
    assert (trained.model / "variables" / "variables.index").is_file()
    assert (trained.model / "variables" / "variables.data-00000-of-00001").is_file()


def test_the_training_curve_has_a_line_for_each_epoch(trained: Workload) -> None:
    lines = [json.loads(line) for line in (trained.model / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], sorted(line)) for line in lines] == [(n, ["accuracy", "loss", "step"]) for n in (1, 2)]
    assert lines[0]["loss"] > lines[1]["loss"] > 0
    assert 0.5 < lines[0]["accuracy"] < lines[1]["accuracy"] <= 1


def test_the_confusion_matrix_counts_each_picture_once(trained: Workload) -> None:
    matrix = json.loads((trained.output / "confusion_matrix.json").read_text())
    counts = np.array(matrix["counts"])
    assert matrix["labels"] == [str(digit) for digit in range(10)]
    assert counts.sum() == trained.prepared.test_count
    content = gzip.decompress((trained.data / "t10k-labels-idx1-ubyte.gz").read_bytes())
    assert counts.sum(axis=1).tolist() == np.bincount(np.frombuffer(content, np.uint8, offset=8)).tolist()
    assert round(counts.trace() / counts.sum(), 4) == trained.first_result["accuracy"]


def test_predictions_are_probabilities(trained: Workload) -> None:
    predictions = np.load(trained.predictions)
    assert predictions.dtype == np.float32
    assert predictions.shape == (trained.prepared.test_count, 10)
    assert np.allclose(predictions.sum(axis=1), 1, atol=1e-5)


def test_accuracy(trained: Workload) -> None:
    assert list(trained.first_result) == ["accuracy"]
    assert 0.88 <= trained.first_result["accuracy"] <= 1


def test_training_can_be_validated_and_one_that_diverges_says_so(
    trained: Workload, forks: TensorFlowForks, tmp_path: Path
) -> None:
    found = {}
    for rate in (0.1, 1e39):
        options: dict[str, Any] = {"data_dir": trained.data, "output_dir": tmp_path / "model"}
        options |= {"learning_rate": rate, "epochs": 1, "validation_share": 0.2}
        forks.start(PROGRAMS / "train.py", arguments(options))
        assert forks.wait() == 0, forks.errors
        found[rate] = json.loads((tmp_path / "model" / "validation.json").read_text())
    assert found[0.1]["accuracy"] > 0.8
    assert 0 < found[0.1]["loss"] < 2
    assert found[1e39]["loss"] is None


def test_rerun_over_the_same_folders_gives_the_same(trained: Workload, forks: TensorFlowForks) -> None:
    before = np.load(trained.predictions)
    assert trained.chain(forks) == trained.first_result
    assert np.allclose(np.load(trained.predictions), before, atol=1e-5)
    written = {"confusion_matrix.json", trained.result.name, trained.predictions.name}
    assert {path.name for path in trained.output.iterdir()} == written
    assert len((trained.model / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.fixture
def broken(tensorflow_python: str | Path, prepared: dataset.Dataset, tmp_path: Path) -> Workload:
    """Return a workload whose files the test breaks. The programs report errors before they load TensorFlow."""
    workload = Workload(tensorflow_python, prepared, tmp_path)
    workload.data = tmp_path / "mnist"
    workload.data.mkdir()
    for path in (prepared.folder / "mnist").iterdir():
        (workload.data / path.name).write_bytes(path.read_bytes())
    return workload


def assert_sentence(done: subprocess.CompletedProcess[str], program: str, *parts: str) -> None:
    assert done.returncode != 0
    assert done.stderr.startswith(f"{program}: ")
    assert done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(None, "is missing", id="missing"),
        pytest.param(b"hello", "cannot be read", id="no gzip"),
        pytest.param(gzip.compress(b"\0\0\x08\x03" + bytes(12))[:-6], "cannot be read", id="cut off"),
        pytest.param(gzip.compress(b"\0\0\x08\x01" + bytes(4)), "is not an idx3 file", id="labels"),
        pytest.param(gzip.compress(b"\0\0\x08\x03" + bytes(12) + b"x"), "fewer or more bytes", id="too long"),
    ],
)
def test_train_and_predict_report_odd_pictures(broken: Workload, content: bytes | None, complaint: str) -> None:
    for name in ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"):
        (broken.data / name).unlink()
        if content is not None:
            (broken.data / name).write_bytes(content)
    done = broken.run("train.py", data_dir=broken.data, output_dir=broken.model)
    assert_sentence(done, "train.py", "train-images-idx3-ubyte.gz", complaint)
    done = broken.run("predict.py", model_dir=broken.model, data_dir=broken.data, output_dir=broken.output)
    assert_sentence(done, "predict.py", "t10k-images-idx3-ubyte.gz", complaint)


def test_train_reports_labels_of_other_pictures(broken: Workload) -> None:
    labels = broken.data / "train-labels-idx1-ubyte.gz"
    labels.write_bytes((broken.data / "t10k-labels-idx1-ubyte.gz").read_bytes())
    done = broken.run("train.py", data_dir=broken.data, output_dir=broken.model)
    assert_sentence(done, "train.py", "1437 training pictures", "360 labels")


def test_train_reports_that_nobody_tells_who_the_other_workers_are(broken: Workload) -> None:
    done = broken.run("train.py", "--strategy", data_dir=broken.data, output_dir=broken.model)
    assert_sentence(done, "train.py", "who the replicas are")


def test_predict_reports_a_missing_model(broken: Workload) -> None:
    done = broken.run("predict.py", model_dir=broken.model, data_dir=broken.data, output_dir=broken.output)
    assert_sentence(done, "predict.py", "saved_model.pb")


@pytest.mark.parametrize(
    ("predictions", "complaint"),
    [
        pytest.param(None, "is missing", id="missing"),
        pytest.param(np.ones((5, 10), np.float32), "5 predictions but 360 labels", id="too few"),
        pytest.param(np.ones(360, np.float32), "shape (360,)", id="no probabilities"),
        pytest.param(np.full((360, 10), np.nan, np.float32), "not all numbers", id="not a number"),
        pytest.param(np.array([{}]), "cannot be read", id="objects"),
    ],
)
def test_evaluate_reports_odd_predictions(broken: Workload, predictions: NDArray[Any] | None, complaint: str) -> None:
    broken.output.mkdir()
    if predictions is not None:
        np.save(broken.predictions, predictions)
    done = broken.run("evaluate.py", label_dir=broken.data, predictions=broken.predictions, output_dir=broken.output)
    assert_sentence(done, "evaluate.py", complaint)
    assert not broken.result.exists()


def test_evaluate_reports_odd_labels(broken: Workload) -> None:
    labels = broken.data / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(gzip.decompress(labels.read_bytes())[:-1] + b"\x0b"))
    broken.output.mkdir()
    np.save(broken.predictions, np.ones((360, 10), np.float32))
    done = broken.run("evaluate.py", label_dir=broken.data, predictions=broken.predictions, output_dir=broken.output)
    assert_sentence(done, "evaluate.py", "labels go up to 11")


def test_evaluate_needs_no_tensorflow(broken: Workload) -> None:
    """Evaluate a perfect prediction in a Python that cannot import TensorFlow."""
    content = gzip.decompress((broken.data / "t10k-labels-idx1-ubyte.gz").read_bytes())
    broken.output.mkdir()
    np.save(broken.predictions, np.eye(10, dtype=np.float32)[np.frombuffer(content, np.uint8, offset=8)])
    script = (
        "import runpy, sys; sys.modules['tensorflow'] = None; "
        "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [broken.python, "-B", "-c", script, PROGRAMS / "evaluate.py", "--label-dir", broken.data]
    command += ["--predictions", broken.predictions, "--output-dir", broken.output]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert broken.result.read_text() == '{"accuracy": 1.0}'


@pytest.fixture(scope="module")
def serving(trained: Workload, forks: TensorFlowForks) -> Iterator[httpx.Client]:
    """Return a client of the running service."""
    port = free_port()
    variables = {"MODEL_PATH": str(trained.model), "HOST": "127.0.0.1", "PORT": str(port)}
    process = forks.start(PROGRAMS / "serving" / "serving.py", [], variables)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            wait_until_healthy(client, forks)
            yield client
    finally:
        os.kill(process, signal.SIGTERM)
        forks.wait()


def wait_until_healthy(client: httpx.Client, forks: TensorFlowForks) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            assert client.get("/health").status_code == 200
            return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"The service did not start:\n{forks.errors}")


@pytest.fixture(scope="module")
def website(prepared: dataset.Dataset) -> Iterator[str]:
    """Return the address of a web site with the picture."""
    handler = partial(SimpleHTTPRequestHandler, directory=prepared.folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def predictions(response: httpx.Response, count: int = 1) -> list[int]:
    """Check that the answer has the form in the platform's document, and return the digits."""
    assert response.status_code == 200
    body = response.json()
    assert body["status"] == {"code": 0, "msg": "success"}
    assert set(body) == {"data", "status"}
    assert set(body["data"]) == {"predictions", "probabilities"}
    assert [len(row) for row in body["data"]["probabilities"]] == [10] * count
    assert [int(np.argmax(row)) for row in body["data"]["probabilities"]] == body["data"]["predictions"]
    digits: list[int] = body["data"]["predictions"]
    return digits


def assert_refused(response: httpx.Response, *parts: str) -> None:
    assert response.status_code == 200
    body = response.json()
    assert body["data"] is None
    assert body["status"]["code"] != 0
    for part in parts:
        assert part in body["status"]["msg"]


def test_serving_answers_for_a_file(serving: httpx.Client, prepared: dataset.Dataset) -> None:
    content = prepared.picture.read_bytes()
    assert predictions(serving.post("/image", files={"files": ("7.png", content)})) == [7]


@pytest.mark.parametrize("field", ["base64s", "base64"])
def test_serving_answers_for_base64(serving: httpx.Client, prepared: dataset.Dataset, field: str) -> None:
    text = base64.b64encode(prepared.picture.read_bytes()).decode()
    assert predictions(serving.post("/image", data={field: text})) == [7]
    assert predictions(serving.post("/image", data={field: f"data:image/png;base64,{text}"})) == [7]


def test_serving_answers_for_a_url(serving: httpx.Client, prepared: dataset.Dataset, website: str) -> None:
    url = f"{website}/{prepared.picture.name}"
    assert predictions(serving.post("/image", data={"urls": url})) == [7]


def test_serving_answers_for_several_at_once(serving: httpx.Client, prepared: dataset.Dataset, website: str) -> None:
    url = f"{website}/{prepared.picture.name}"
    content = prepared.picture.read_bytes()
    answer = serving.post(
        "/image",
        data={"urls": [url, url], "base64s": base64.b64encode(content).decode()},
        files=[("files", ("a.png", content)), ("files", ("b.png", content))],
    )
    assert predictions(answer, count=5) == [7] * 5


def test_serving_agrees_with_predict(serving: httpx.Client, trained: Workload) -> None:
    content = gzip.decompress((trained.data / "t10k-images-idx3-ubyte.gz").read_bytes())
    images = np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)[:8]
    files = [("files", (f"{number}.png", png(Image.fromarray(image)))) for number, image in enumerate(images)]
    answer = serving.post("/image", files=files).json()
    assert np.allclose(answer["data"]["probabilities"], np.load(trained.predictions)[:8], atol=1e-5)


def transparent(picture: Image.Image, ink: int) -> Image.Image:
    """Draw the picture's white parts in `ink`, on nothing."""
    drawing = Image.new("LA", picture.size, (ink, 0))
    drawing.putalpha(picture)
    return drawing


VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "black on white": ImageOps.invert,
    "black on gray": lambda picture: Image.eval(picture, lambda value: 200 - value * 200 // 255),
    "RGB": lambda picture: picture.convert("RGB"),
    "RGBA": lambda picture: ImageOps.invert(picture).convert("RGBA"),
    "palette": lambda picture: ImageOps.invert(picture).convert("P"),
    "bilevel": lambda picture: picture.convert("1"),
    "16 bit": lambda picture: Image.fromarray(np.asarray(picture).astype(np.uint16) * 257),
    "large": lambda picture: picture.resize((300, 300)),
    "wide margins": lambda picture: ImageOps.expand(ImageOps.invert(picture), (40, 10, 70, 20), 255),
    "black on transparent": partial(transparent, ink=0),
    "white on transparent": partial(transparent, ink=255),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_serving_reads_any_kind_of_picture(serving: httpx.Client, prepared: dataset.Dataset, name: str) -> None:
    picture = VARIANTS[name](Image.open(prepared.picture))
    assert predictions(serving.post("/image", files={"files": ("7.png", png(picture))})) == [7]


def test_serving_reports_errors_inside_http_200(serving: httpx.Client, website: str) -> None:
    assert_refused(serving.post("/image"), "urls, files or base64s")
    assert_refused(serving.post("/image", data={"base64s": "?"}), "base64")
    assert_refused(serving.post("/image", files={"files": ("7.png", b"no picture")}), "picture")
    assert_refused(serving.post("/image", data={"urls": f"{website}/none.png"}), "none.png", "404")
    assert_refused(serving.post("/image", data={"urls": "file:///etc/hostname"}), "file:///etc/hostname")
    assert_refused(serving.post("/image", data={"urls": "seven"}), "seven")


def test_serving_takes_large_pictures_but_not_huge_ones(serving: httpx.Client) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (1200, 1200), np.uint8)
    text = base64.b64encode(png(Image.fromarray(noise))).decode()
    predictions(serving.post("/image", data={"base64s": text}))
    assert_refused(serving.post("/image", files={"files": ("7.png", png(Image.new("1", (5000, 5000))))}), "pixels")


def test_serving_without_a_model_says_so(tensorflow_python: str | Path, tmp_path: Path) -> None:
    environment = os.environ | {"MODEL_PATH": str(tmp_path)}
    command = [tensorflow_python, "-B", PROGRAMS / "serving" / "serving.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert_sentence(done, "serving.py", "saved_model.pb")
