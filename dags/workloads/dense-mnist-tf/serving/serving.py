"""Serve a model that train.py wrote: POST pictures of digits to /image.

Environment variables: MODEL_PATH (the folder of the SavedModel), HOST and PORT.
Runs with TensorFlow 2.3 or newer. It is one file, since the image contains nothing else.
"""

import base64
import binascii
import http.client
import io
import os
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
from flask import Flask, jsonify, request
from PIL import Image
from werkzeug.exceptions import HTTPException

SIDE = 28
DIGIT_SIDE = 20
MAX_PICTURES = 64
MAX_BYTES = 16 * 1024 * 1024
MAX_PIXELS = 16 * 1024 * 1024
FETCH_SECONDS = 10


class PictureError(Exception):
    """A picture of a request cannot be fetched or read. The caller receives the text."""


def main() -> None:
    """Load the model, then serve it."""
    model_path = os.environ.get("MODEL_PATH")
    if not model_path:
        fail("MODEL_PATH is not set.")
    port = os.environ.get("PORT", "5000")
    if not port.isdigit():
        fail(f"PORT is {port!r} instead of a number.")
    app = create_app(load_model(Path(model_path)))
    app.run(host=os.environ.get("HOST", "0.0.0.0"), port=int(port), threaded=True)


def create_app(model) -> Flask:
    """Return the web application for `model`, a function that takes pictures and returns class probabilities."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BYTES
    # Newer versions of Flask limit form fields to half a megabyte, which is too little for base64.
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BYTES

    @app.route("/health")
    def health():
        return answer({"model": "loaded"})

    @app.route("/image", methods=["POST"])
    def image():
        # The platform's convention: the HTTP status is always 200, and status.code shows the outcome.
        try:
            pictures = np.stack([prepare(content) for content in read_request()])
            probabilities = model(pictures)
        except PictureError as error:
            return answer(None, 400, str(error))
        except HTTPException as error:
            return answer(None, error.code, error.description)
        except Exception:
            app.logger.exception("Prediction failed")
            return answer(None, 500, "The prediction failed. The service's log contains the error.")
        return answer({"predictions": probabilities.argmax(axis=1).tolist(), "probabilities": probabilities.tolist()})

    return app


def answer(data, code: int = 0, message: str = "success"):
    """Return the platform's response envelope."""
    return jsonify(data=data, status={"code": code, "msg": message})


def read_request() -> list:
    """Return the content of each picture in the request: urls first, then files, then base64s (or base64)."""
    urls, texts = request.form.getlist("urls"), request.form.getlist("base64s") + request.form.getlist("base64")
    files = request.files.getlist("files")
    count = len(urls) + len(files) + len(texts)
    if count == 0:
        raise PictureError("Send pictures as urls, files or base64s.")
    if count > MAX_PICTURES:
        raise PictureError(f"{count} pictures are too many; send at most {MAX_PICTURES}.")
    return [fetch(url) for url in urls] + [file.read() for file in files] + [decode(text) for text in texts]


def fetch(url: str) -> bytes:
    """Return the picture at a URL."""
    # Only these handlers, so neither a URL nor a redirect can use another scheme, such as file.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    deadline = time.monotonic() + FETCH_SECONDS
    content = b""
    try:
        with opener.open(url, timeout=FETCH_SECONDS) as response:
            for chunk in iter(lambda: response.read1(65536), b""):
                content += chunk
                if len(content) > MAX_BYTES:
                    raise PictureError(f"{url} is larger than {MAX_BYTES} bytes.")
                if time.monotonic() > deadline:
                    raise PictureError(f"{url} took longer than {FETCH_SECONDS} seconds.")
    # ValueError: this is not a URL. HTTPException: the answer is not HTTP.
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise PictureError(f"{url} cannot be fetched: {error}") from error
    return content


def decode(text: str) -> bytes:
    """Return the bytes of a base64 text, which may have the prefix of a data: URL."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    # In a form, a plus sign that is not escaped arrives as a space.
    text = "".join(text.strip().replace(" ", "+").split())
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"base64s cannot be decoded: {error}") from error


def prepare(content: bytes) -> np.ndarray:
    """Convert a picture of a digit to the model's input: 28x28 pixels, white on black, from 0 to 1."""
    try:
        picture = Image.open(io.BytesIO(content))
        if picture.width * picture.height > MAX_PIXELS:
            raise PictureError(f"A picture has more than {MAX_PIXELS} pixels.")
        gray = to_gray(picture)
    except PictureError:
        raise
    except Exception as error:  # Pillow's decoders raise many types of errors
        raise PictureError(f"A picture cannot be read: {error}") from error

    background = np.median(np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])).astype(np.uint8)
    if background > 127:
        gray, background = 255 - gray, 255 - background
    gray = np.maximum(gray, background) - background
    if gray.shape != (SIDE, SIDE):
        gray = place(gray)
    return gray.astype(np.float32) / 255


def place(gray: np.ndarray) -> np.ndarray:
    """Return the digit as in MNIST: in the middle of 28x28 pixels, with a longer side of 20 pixels."""
    placed = np.zeros((SIDE, SIDE), np.uint8)
    ink = gray > gray.max() / 2
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if len(rows) == 0:
        return placed
    digit = gray[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(length * DIGIT_SIDE / max(digit.shape))) for length in digit.shape)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    placed[top : top + height, left : left + width] = Image.fromarray(digit).resize((width, height), Image.LANCZOS)
    return placed


def to_gray(picture: Image.Image) -> np.ndarray:
    """Return the picture as bytes from 0 (black) to 255 (white), with transparent parts filled."""
    if picture.mode[0] in "IF":
        # Pillow would cut off all values above 255.
        values = np.asarray(picture, np.float64)
        low, high = values.min(), values.max()
        return ((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return np.array(picture.convert("L"))
    values = np.array(picture.convert("RGBA").convert("LA"), np.float32)
    gray, opacity = values[..., 0], values[..., 1] / 255
    # The ink may be dark or bright: fill with the color that makes it visible.
    ink = (gray * opacity).sum() / max(opacity.sum(), 1e-9)
    return (gray * opacity + (0 if ink > 127 else 255) * (1 - opacity)).astype(np.uint8)


def load_model(folder: Path):
    """Return the SavedModel's serving function. It takes pictures and returns class probabilities."""
    if not (folder / "saved_model.pb").is_file():
        fail(f"{folder} has no saved_model.pb.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    try:
        model = tf.saved_model.load(str(folder))
        function = model.signatures["serving_default"]
    except Exception as error:
        fail(f"the model in {folder} cannot be loaded: {' '.join(str(error).split())}")
    # The names of inputs and outputs depend on the TensorFlow version; the signature contains them.
    inputs = function.structured_input_signature[1]
    outputs = function.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        fail(f"the model in {folder} has {len(inputs)} inputs and {len(outputs)} outputs; one of each is expected.")
    (input_name, input_spec), (output_name, _) = *inputs.items(), *outputs.items()
    if not input_spec.shape.is_compatible_with((None, SIDE, SIDE)):
        fail(f"the model takes input of shape {input_spec.shape} instead of pictures of {SIDE}x{SIDE}.")

    def predict(pictures: np.ndarray) -> np.ndarray:
        # Call it through the model: the function alone does not keep the variables alive.
        return model.signatures["serving_default"](**{input_name: tf.constant(pictures)})[output_name].numpy()

    return predict


def fail(sentence: str) -> None:
    """Exit with an error message for the user."""
    sys.exit(f"serving.py: {sentence}")


if __name__ == "__main__":
    main()
