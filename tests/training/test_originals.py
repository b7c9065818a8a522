import numpy as np
import pytest
from originals import cifar_files, write_cifar, write_mnist

from bundle.preprocess import preprocess
from training.data import open_dataset
from training.errors import DataError
from training.recipe import Data, Input

RGB = Input(height=32, width=32, color="rgb").preprocessing()


def opened(source, path, **values):
    return open_dataset("made", Data(source=source, path=str(path), **values))


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("source", ["mnist", "fashion-mnist"])
def test_mnist_files_are_read_pixel_for_pixel(tmp_path, source, zipped):
    arrays = write_mnist(tmp_path, zipped=zipped)
    data = opened(source, tmp_path)
    assert len(data.test) == 10 and len(data.train) + len(data.validation) == 40
    grey = Input(height=28, width=28).preprocessing()
    for index in range(10):
        assert np.array_equal(
            preprocess(data.test.encoded(index), grey).pixels[..., 0], arrays["t10k-images-idx3-ubyte"][index]
        )
        assert data.test.target(index) == index


@pytest.mark.parametrize(
    ("source", "classes", "archive", "folder"),
    [
        ("cifar10", 10, "cifar-10-python.tar.gz", "cifar-10-batches-py"),
        ("cifar100", 100, "cifar-100-python.tar.gz", "cifar-100-python"),
    ],
)
def test_cifar_archives_are_read_pixel_for_pixel(tmp_path, source, classes, archive, folder):
    files = cifar_files(classes)
    write_cifar(tmp_path / archive, files, folder)
    data = opened(source, tmp_path)
    assert data.labels[:2] == ("class0", "class1") and len(data.test) == 10
    rows = files["test" if classes == 100 else "test_batch"][b"data"]
    expected = rows[3].reshape(3, 32, 32).transpose(1, 2, 0)
    assert np.array_equal(preprocess(data.test.encoded(3), RGB).pixels, expected)


def test_a_download_fetches_what_is_missing_and_then_needs_no_network(tmp_path):
    write_mnist(tmp_path / "published", zipped=True)
    url = (tmp_path / "published").as_uri()
    first = opened("mnist", tmp_path / "mine", download=True, url=url)
    assert opened("mnist", tmp_path / "mine").fingerprint == first.fingerprint


@pytest.mark.parametrize("source", ["mnist", "cifar10"])
def test_missing_files_are_named_with_the_way_to_get_them(tmp_path, source):
    with pytest.raises(DataError, match=r"data\.download=true"):
        opened(source, tmp_path)


def test_a_download_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match="cannot be downloaded"):
        opened("cifar10", tmp_path / "mine", download=True, url=(tmp_path / "nowhere").as_uri())
    assert not list((tmp_path / "mine").iterdir())


def test_an_archive_that_wants_to_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    write_cifar(tmp_path / "cifar-10-python.tar.gz", {**cifar_files(), "test_batch": Evil()}, "cifar-10-batches-py")
    with pytest.raises(DataError, match=r"test_batch.*print"):
        opened("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [(lambda raw: raw[:-5], "holds"), (lambda raw: b"not idx at all", "not an IDX file")],
    ids=["truncated", "other"],
)
def test_a_damaged_idx_file_is_named(tmp_path, damage, words):
    write_mnist(tmp_path, zipped=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=words):
        opened("mnist", tmp_path)
