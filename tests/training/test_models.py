import pytest
import torch
import torchvision

from training.errors import RecipeError
from training.models import build, names
from training.models.torchvision_resnet import DEPTHS
from training.models.torchvision_vgg import NAMES


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
    ],
)
def test_the_small_resnets_have_the_published_size(name, count):
    """He et al. 2015, table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million."""
    assert parameters(build(name, classes=10, channels=3, input_size=(32, 32))) == count


def test_an_identity_shortcut_costs_no_parameters_and_a_projection_does():
    sizes = {
        shortcut: parameters(build("resnet20", classes=10, channels=3, input_size=(32, 32), shortcut=shortcut))
        for shortcut in ("identity", "projection", "none")
    }
    assert (
        sizes["identity"] == sizes["none"] == parameters(build("plain20", classes=10, channels=3, input_size=(32, 32)))
    )
    assert sizes["projection"] == sizes["identity"] + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


def test_an_identity_shortcut_adds_the_subsampled_input_with_zero_channels():
    block = build("resnet20", classes=10, channels=3, input_size=(32, 32)).stage2[0]
    x = torch.randn(2, 16, 8, 8)
    added = block.skip(x)
    assert added.shape == (2, 32, 4, 4)
    assert torch.equal(added[:, 8:24], x[:, :, ::2, ::2])
    assert not added[:, :8].any() and not added[:, 24:].any()


TORCHVISION = sorted({*DEPTHS, *NAMES, "alexnet"})


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_keep_its_tensors(name):
    """Equal state-dict names and shapes, so published weights load; built without memory on the meta device."""
    with torch.device("meta"):
        ours = build(name, classes=1000, channels=3, input_size=(224, 224))
        theirs = torchvision.models.get_model(name)
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_torchvisions_weights_give_torchvisions_answers():
    theirs = torchvision.models.resnet18(num_classes=5).eval()
    ours = build("resnet18", classes=5, channels=3, input_size=(64, 64)).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(ours(x), theirs(x), atol=1e-6)


SMALL = [(name, {}) for name in names() if name not in TORCHVISION]
SMALL += [(name, {"stem": "small"}) for name in ("resnet18", "vgg11_bn")]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "options"), SMALL, ids=[name for name, _ in SMALL])
def test_every_model_keeps_the_contract_of_a_classifier(name, options, channels):
    """Logits are the head over the embedding; where `cam` is true, the maps average to the logits."""
    torch.manual_seed(0)
    model = build(name, classes=7, channels=channels, input_size=(32, 32), **options).eval()
    x = torch.randn(2, channels, 32, 32)
    with torch.inference_mode():
        embedding = model.embed(x)
        assert torch.allclose(model(x), model.head(embedding))
        assert model(x).shape == (2, 7)
        if model.cam:
            features = model.feature_map(x)
            assert torch.allclose(features.mean(dim=(2, 3)), embedding, atol=1e-5)
            maps = torch.einsum("kd,ndhw->nkhw", model.head.weight, features)
            logits = model(x)  # in the thousands where no training has tamed a deep network
            rounding = 1e-5 * max(1.0, logits.abs().max().item())
            assert torch.allclose(maps.mean(dim=(2, 3)) + model.head.bias, logits, atol=rounding)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (name, options)
        for name, options in SMALL
        if build(name, classes=7, channels=1, input_size=(32, 32), **options).cam
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_with_mirror_images_the_answer_is_the_mean_of_both(name, options):
    torch.manual_seed(0)
    model = build(name, classes=7, channels=3, input_size=(32, 48), **options).eval()
    x = torch.randn(3, 3, 32, 48)
    with torch.inference_mode():
        alone, turned, features = model(x), model(x.flip(3)), model.feature_map(x)
        model.mirror = True
        both = model(x)
        rounding = 1e-5 * max(1.0, both.abs().max().item())
        assert torch.allclose(both, (alone + turned) / 2, atol=rounding)
        assert torch.allclose(both, model(x.flip(3)), atol=rounding), "a mirror image gets the same answer"
        assert not torch.allclose(both, alone, atol=rounding)
        maps, shift = model.seen(x), 1e-5 * features.abs().max().item()
        assert torch.allclose(maps, model.seen(x.flip(3)).flip(3), atol=shift), "and its map is the mirrored map"
    sizes = []
    model.train().head.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    model(x)
    assert sizes == [3, 3], "training sees each image once"


def test_a_784_64_16_10_perceptron_has_51450_parameters():
    for activation in ("sigmoid", "tanh", "relu"):
        model = build("perceptron", classes=10, channels=1, input_size=(28, 28), widths=[64, 16], activation=activation)
        assert parameters(model) == 51_450


def test_a_linear_classifier_is_one_matrix_and_one_bias():
    assert parameters(build("linear", classes=10, channels=1, input_size=(28, 28))) == 7850


def test_alexnet_takes_other_channel_counts():
    with torch.device("meta"):
        model = build("alexnet", classes=4, channels=1, input_size=(224, 224))
        assert model(torch.empty(1, 1, 224, 224)).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "size", "options", "words"),
    [
        ("vgg16", (32, 32), {}, "stem small"),
        ("vgg16", (16, 16), {"stem": "small"}, "smaller than 32x32"),
        ("alexnet", (32, 32), {}, "63x63"),
        ("alexnet", (128, 128), {}, "6x6"),
        ("lenet", (8, 8), {}, "12x12"),
        ("resnet18", (32, 32), {"stem": "tiny"}, "tiny"),
        ("perceptron", (8, 8), {"activation": "gelu"}, "sigmoid, tanh, relu"),
    ],
    ids=lambda value: str(value),
)
def test_an_input_or_option_that_cannot_work_is_refused(name, size, options, words):
    with pytest.raises(RecipeError, match=words):
        build(name, classes=10, channels=3, input_size=size, **options)


def test_an_unknown_model_or_option_is_named():
    with pytest.raises(RecipeError, match="resnet20"):
        build("resnet21", classes=10, channels=3, input_size=(32, 32))
    with pytest.raises(RecipeError, match="shortcuts"):
        build("resnet20", classes=10, channels=3, input_size=(32, 32), shortcuts="identity")
