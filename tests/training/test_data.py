import hashlib
import io

import numpy as np
import pytest
import torch
from originals import cifar_files, write_cifar, write_mnist
from PIL import Image

from bundle.preprocess import preprocess
from training.data import arrays, open_dataset
from training.data.augment import gather
from training.data.dataset import Split, position
from training.data.feed import require_readable
from training.data.folder import items_below
from training.data.tensors import channel_statistics, decode
from training.errors import DataError
from training.recipe import Augment, Data, Input, parse_recipe
from training.train import train


def write_images(folder, count, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{seed}-{index}.png")


DIGITS_SIZES = [1288, 154, 355]
DIGITS_FINGERPRINT = "5b3ee86d8f6c93c5c7ee4695fc5587dbc3d3d314929dd2bf0accbf1da6053755"


def write_source(source, root):
    """Put small made-up originals of an array source below a folder; the digits need none."""
    if source == "mnist":
        write_mnist(root, zipped=False)
    if source == "cifar10":
        write_cifar(root / "cifar-10-python.tar.gz", cifar_files(), "cifar-10-batches-py")


def encode_otherwise(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=9, optimize=True)
    return buffer.getvalue() + b"\0"


def folder_data(path, **values):
    return open_dataset("made", Data(source="folder", path=str(path), **values))


def members(dataset):
    return {part: {item.digest for item in getattr(dataset, part).items} for part in ("train", "validation", "test")}


def test_the_digits_are_1797_lossless_png_files():
    dataset = open_dataset("digits", Data())
    parts = [dataset.train, dataset.validation, dataset.test]
    assert sum(map(len, parts)) == 1797
    for part in parts:
        assert Image.open(io.BytesIO(part.encoded(0))).size == (8, 8)
        assert dataset.labels[part.target(0)] in "0123456789"


@pytest.mark.parametrize("source", ["digits", "mnist", "cifar10"])
def test_images_of_arrays_are_known_by_their_pixels_whatever_encoded_them(tmp_path, monkeypatch, source):
    """Another Pillow or zlib writes other PNG bytes; splits, fingerprint and training lists must not move."""
    write_source(source, tmp_path)
    before = open_dataset("made", Data(source=source, path=str(tmp_path)))
    files = {before.train.encoded(i) for i in range(len(before.train))}
    monkeypatch.setattr(arrays, "encode_png", encode_otherwise)
    after = open_dataset("made", Data(source=source, path=str(tmp_path)))
    assert files.isdisjoint(after.train.encoded(i) for i in range(len(after.train)))
    assert members(after) == members(before)
    assert after.fingerprint == before.fingerprint


def test_the_splits_of_the_digits_are_these_on_every_machine():
    dataset = open_dataset("digits", Data())
    parts = (dataset.train, dataset.validation, dataset.test)
    assert [len(part) for part in parts] == DIGITS_SIZES
    assert dataset.fingerprint == DIGITS_FINGERPRINT


@pytest.mark.parametrize("format", ["PNG", "BMP"])
def test_feedback_that_repeats_an_arrays_image_is_that_image(tmp_path, format):
    """It is neither counted twice nor moved to another split, and its new label counts."""
    dataset = open_dataset("digits", Data())
    image = Image.open(io.BytesIO(dataset.test.encoded(0)))
    label = dataset.labels[(dataset.test.target(0) + 1) % 10]
    (tmp_path / label).mkdir()
    image.save(tmp_path / label / f"0.{format.lower()}", format)
    fed = open_dataset("digits", Data(feedback=str(tmp_path)))
    assert members(fed) == members(dataset)
    [changed] = [item for item in fed.test.items if item.digest == dataset.test.digest(0)]
    assert fed.labels[changed.target] == label


def test_no_image_changes_its_split_when_a_folder_grows(tmp_path):
    for label in ("a", "b"):
        write_images(tmp_path / label, 60, seed=ord(label))
    before = members(folder_data(tmp_path))
    for label in ("a", "b"):
        write_images(tmp_path / label, 60, seed=ord(label) + 100)
    after = members(folder_data(tmp_path))
    assert all(before[part] <= after[part] and before[part] for part in before)


def test_a_part_of_the_training_images_leaves_the_other_splits_whole(tmp_path):
    for label in ("a", "b"):
        write_images(tmp_path / label, 100, seed=ord(label))
    tenth, half, whole = (members(folder_data(tmp_path, train_fraction=share)) for share in (0.1, 0.5, 1.0))
    assert tenth["test"] == half["test"] == whole["test"] and tenth["validation"] == whole["validation"]
    assert tenth["train"] < half["train"] < whole["train"]
    assert 0.35 < len(half["train"]) / len(whole["train"]) < 0.65


def test_equal_images_always_share_a_split(tmp_path):
    write_images(tmp_path / "a", 40, seed=1)
    write_images(tmp_path / "b", 40, seed=2)
    write_images(tmp_path / "c", 40, seed=1)
    dataset = folder_data(tmp_path)
    parts = members(dataset)
    assert not parts["train"] & parts["test"] and not parts["train"] & parts["validation"]


def test_the_split_fractions_are_kept_within_chance():
    digests = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(10_000)]
    assert abs(sum(position(d) < 0.2 for d in digests) / 10_000 - 0.2) < 0.02


@pytest.mark.parametrize("name", ["test", "val"])
def test_a_test_folder_stays_the_test_split(tmp_path, name):
    for label in ("a", "b"):
        write_images(tmp_path / "train" / label, 40, seed=ord(label))
        write_images(tmp_path / name / label, 5, seed=ord(label) + 100)
    dataset = folder_data(tmp_path)
    assert len(dataset.test) == 10
    assert len(dataset.train) + len(dataset.validation) == 80
    assert all(f"/{name}/" in item.origin for item in dataset.test.items)


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ([], ["0 class folders"]),
        (["a"], ["1 class folders"]),
        (["a", "b!"], ["b", "holds no image"]),
        (["train/a", "train/b", "test/a", "test/c"], ["class c", "a, b"]),
    ],
    ids=["empty", "one class", "class without images", "unknown test class"],
)
def test_a_folder_that_cannot_be_used_is_refused_by_name(tmp_path, folders, words):
    for number, folder in enumerate(folders):
        write_images(tmp_path / folder.rstrip("!"), 0 if folder.endswith("!") else 3, seed=number)
    with pytest.raises(DataError) as error:
        folder_data(tmp_path)
    assert all(word in error.value.detail for word in words), error.value.detail


def test_unreadable_images_stop_a_run_with_their_paths(tmp_path):
    for label in ("a", "b"):
        write_images(tmp_path / label, 20, seed=ord(label))
    (tmp_path / "a" / "broken.jpg").write_bytes(b"not an image")
    dataset = folder_data(tmp_path, validation_fraction=0.1, test_fraction=0.0)
    parts = [dataset.train, dataset.validation]
    [part] = [p for p in parts if any("broken" in item.origin for item in p.items)]
    with pytest.raises(DataError, match=r"a/broken\.jpg: The bytes are not a JPEG"):
        decode(part, Input(color="rgb").preprocessing())


def test_decoding_goes_through_the_bundles_preprocessing(tmp_path):
    for label in ("a", "b"):
        write_images(tmp_path / label, 20, seed=ord(label))
    split, recipe = folder_data(tmp_path).train, Input(height=5, width=6, color="rgb").preprocessing()
    pixels = decode(split, recipe).pixels
    for index in range(len(split)):
        assert np.array_equal(pixels[index].numpy(), preprocess(split.encoded(index), recipe).pixels)


def test_the_fingerprint_follows_content_and_labels_not_names(tmp_path):
    for label in ("a", "b"):
        write_images(tmp_path / label, 20, seed=ord(label))
    before = folder_data(tmp_path).fingerprint
    image = next((tmp_path / "a").iterdir())
    image.rename(image.with_name("renamed.png"))
    assert folder_data(tmp_path).fingerprint == before
    (tmp_path / "a" / "renamed.png").rename(tmp_path / "b" / "renamed.png")
    assert folder_data(tmp_path).fingerprint != before


def test_a_shifted_image_equals_a_crop_of_the_reflected_padding():
    pixels = torch.randint(0, 256, (4, 6, 7, 3), dtype=torch.uint8)
    padded = np.pad(pixels.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    crops = [padded[:, y : y + 6, x : x + 7] for y in range(5) for x in range(5)]
    allowed = [{crop[n].tobytes() for crop in crops} for n in range(4)]
    seen = [set() for _ in range(4)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        batch = gather(pixels, torch.arange(4), Augment(crop_padding=2), generator)
        for n in range(4):
            seen[n].add(batch[n].numpy().tobytes())
    assert seen == allowed


def test_flipping_mirrors_about_half_of_the_images():
    pixels = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 4, 1).repeat(1000, 1, 1, 1)
    batch = gather(pixels, torch.arange(1000), Augment(flip=True), torch.Generator().manual_seed(0))
    mirrored = (batch == pixels.flip(2)).flatten(1).all(dim=1)
    assert torch.equal(mirrored, ~(batch == pixels).flatten(1).all(dim=1))
    assert 430 < int(mirrored.sum()) < 570


def test_channel_statistics_are_those_of_the_pixels():
    pixels = torch.randint(0, 256, (50, 8, 8, 3), dtype=torch.uint8)
    pixels[..., 2] = 7
    mean, std = channel_statistics(pixels.split(20))
    scaled = pixels.double() / 255
    assert mean == pytest.approx(scaled.mean(dim=(0, 1, 2)).tolist(), abs=1e-5)
    assert std[:2] == pytest.approx(scaled[..., :2].std(dim=(0, 1, 2), correction=0).tolist(), abs=1e-5)
    assert std[2] == 1.0


def test_unreadable_images_are_left_out_when_asked(tmp_path):
    for label in ("a", "b"):
        write_images(tmp_path / label, 20, seed=ord(label))
    (tmp_path / "a" / "broken.jpg").write_bytes(b"not an image")
    dataset = folder_data(tmp_path, skip_unreadable=True)
    assert sum(map(len, (dataset.train, dataset.validation, dataset.test))) == 40


def test_a_stream_names_every_unreadable_image(tmp_path):
    for label in ("a", "b"):
        write_images(tmp_path / label, 20, seed=ord(label))
    for label in ("a", "b"):
        (tmp_path / label / "broken.jpg").write_bytes(f"not an image, {label}".encode())
    items = list(items_below(tmp_path, ["a", "b"]))
    with pytest.raises(DataError, match=r"2 of 42 images(.|\n)*a/broken\.jpg(.|\n)*b/broken\.jpg"):
        require_readable(Split(items), Input(color="rgb").preprocessing())


@pytest.mark.parametrize("loading", ["memory", "stream"])
def test_an_unreadable_test_image_stops_a_run_before_its_first_epoch(tmp_path, loading):
    for part, count in (("train", 40), ("test", 5)):
        for label in ("a", "b"):
            write_images(tmp_path / "images" / part / label, count, seed=ord(label) + count)
    (tmp_path / "images" / "test" / "a" / "broken.jpg").write_bytes(b"not an image")
    data = {"source": "folder", "path": str(tmp_path / "images"), "loading": loading}
    with pytest.raises(DataError, match=r"test/a/broken\.jpg"):
        train(parse_recipe({"data": data, "model": {"name": "linear"}}), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
