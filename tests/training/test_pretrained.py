import hashlib
import socket
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file

from tests.loopback import answering
from training.errors import RunError
from training.models import build
from training.pretrained import read_weights, transfer


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder, and the address under which it is served; downloads are kept in a folder of the test."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "downloads"))
    folder = tmp_path / "published"
    folder.mkdir()
    with answering(ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))) as server:
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"


def network():
    return build("resnet8", classes=3, channels=1, input_size=(8, 8))


def save_with_hash(folder, state):
    torch.save(state, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    return (folder / "new.pth").rename(folder / f"resnet8-{digest[:8]}.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_are_fetched_from_an_address_once(published, suffix):
    folder, address = published
    theirs = network().state_dict()
    path = folder / f"weights.{suffix}"
    save_file(theirs, path) if suffix == "safetensors" else torch.save(theirs, path)
    model = network()
    assert len(transfer(model, "resnet8", f"{address}/{path.name}").loaded) == len(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
    path.unlink()
    assert read_weights("resnet8", f"{address}/{path.name}").keys() == theirs.keys()


def test_a_hash_in_the_name_is_checked(published):
    folder, address = published
    path = save_with_hash(folder, network().state_dict())
    assert "conv.weight" in read_weights("resnet8", f"{address}/{path.name}")
    other = path.rename(folder / "resnet8-00000000.pth")
    with pytest.raises(RunError, match=r"resnet8-00000000\.pth cannot be fetched: invalid hash value"):
        read_weights("resnet8", f"{address}/{other.name}")
    assert [p.name.endswith(path.name) for p in (folder.parent / "downloads" / "checkpoints").iterdir()] == [True]


def test_files_of_one_name_from_two_addresses_are_two_files(published):
    folder, address = published
    for part, value in (("a", 1.0), ("b", 2.0)):
        (folder / part).mkdir()
        torch.save({"x": torch.tensor(value)}, folder / part / "weights.pth")
    assert [float(read_weights("any", f"{address}/{part}/weights.pth")["x"]) for part in ("a", "b")] == [1.0, 2.0]


def test_offline_the_error_says_what_works(published):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}/weights.pth"
        with pytest.raises(RunError, match=r"weights\.pth cannot be fetched: .*refused.*a local file works offline"):
            read_weights("resnet8", address)


def test_offline_torchvisions_weights_say_what_works(published, monkeypatch):
    def unreachable(*arguments, **named):
        raise OSError("network is unreachable")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(RunError, match=r"resnet18 cannot be fetched: network is unreachable; a local file works"):
        read_weights("resnet18", "DEFAULT")


def test_a_page_that_is_no_checkpoint_is_refused(published):
    folder, address = published
    (folder / "weights.pth").write_text("<html>not found, politely</html>")
    with pytest.raises(RunError, match="not a readable checkpoint"):
        read_weights("resnet8", f"{address}/weights.pth")
