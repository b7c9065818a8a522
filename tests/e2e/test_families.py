"""Every kind of network goes the whole way: a training step, the export's proofs, the store, HTTP."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from bundle.preprocess import preprocess
from bundle.store import Store
from service.app import create_app
from service.engine.engine import Engine, running
from service.metrics import Metrics
from service.settings import Settings
from training.data.augment import Normalise
from training.export import export
from training.recipe import parse_recipe
from training.runs import load_run
from training.train import train

pytestmark = pytest.mark.timeout(900)  # a VGG at 224 has 129 million parameters to train and export

KINDS = {
    "ResNet for 32x32, He et al. section 4.2": ("resnet8", 32, {}),
    "torchvision's ResNet": ("resnet18", 224, {}),
    "torchvision's ResNet, small stem": ("resnet18", 32, {"stem": "small"}),
    "VGG for small images": ("vgg6_small", 32, {}),
    "torchvision's VGG, small stem": ("vgg11_bn", 32, {"stem": "small"}),
    "torchvision's VGG": ("vgg11_bn", 224, {}),
    "AlexNet": ("alexnet", 224, {}),
    "LeNet": ("lenet", 28, {}),
    "multilayer perceptron": ("perceptron", 28, {"widths": [64, 16], "activation": "tanh"}),
    "linear": ("linear", 28, {}),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Forty images of two textures, in a folder for each."""
    root = tmp_path_factory.mktemp("images")
    for label, scale in (("fine", 40), ("coarse", 6)):
        (root / label).mkdir()
        for seed in range(20):
            noise = np.random.default_rng(seed).integers(0, 256, (scale, scale, 3), np.uint8)
            Image.fromarray(noise).resize((48, 40), Image.Resampling.NEAREST).save(root / label / f"{seed}.png")
    return root


def recipe(name, size, options, images):
    return parse_recipe(
        {
            "name": "textures",
            "data": {
                "source": "folder",
                "path": str(images),
                "validation_fraction": 0.25,
                "test_fraction": 0.25,
            },
            "input": {"height": size, "width": size, "color": "rgb"},
            "model": {"name": name, "options": options},
            "train": {"epochs": 1, "batch_size": 8, "learning_rate": 0.001},
            "export": {"variants": [], "latency_batch_sizes": [1], "golden_images": 2},
        }
    )


@pytest.mark.parametrize(("name", "size", "options"), KINDS.values(), ids=KINDS.keys())
def test_http_answers_what_pytorch_gives(tmp_path, images, name, size, options):
    run = load_run(train(recipe(name, size, options, images), runs=tmp_path / "runs"))
    store = Store(tmp_path / "store")
    export(run).draft.publish(store)
    store.promote("textures", 1)
    raw = run.data.test.encoded(0)
    pixels = torch.from_numpy(preprocess(raw, run.preprocessing).pixels[None].copy())
    with torch.inference_mode():
        logits = run.model(Normalise(run.mean, run.std)(pixels))
    temperature = store.open("textures").manifest.temperature
    expected = dict(zip(run.labels, (logits / temperature).softmax(dim=1)[0].tolist(), strict=True))
    settings = Settings(store=store.root, default_model="textures", device="cpu", warmup_s=0.1)
    with running(Engine(settings, Metrics())) as engine:
        client = create_app(settings, engine).test_client()
        reply = client.post("/predict?top_k=2", data={"image": (io.BytesIO(raw), "image.png")})
    assert reply.status_code == 200, reply.get_data(as_text=True)
    answered = {one["label"]: one["probability"] for one in reply.get_json()["predictions"]}
    assert answered == pytest.approx(expected, abs=1e-4)
