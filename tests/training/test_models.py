import pytest
import torch

from training.errors import RecipeError
from training.models import build, names


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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", names())
def test_every_model_keeps_the_contract_of_a_classifier(name, channels):
    model = build(name, classes=7, channels=channels, input_size=(32, 32)).eval()
    x = torch.randn(2, channels, 32, 32)
    with torch.inference_mode():
        embedding = model.embed(x)
        assert torch.allclose(model(x), model.head(embedding))
        assert model(x).shape == (2, 7)
        if model.cam:
            features = model.feature_map(x)
            assert torch.allclose(features.mean(dim=(2, 3)), embedding, atol=1e-5)
            maps = torch.einsum("kd,ndhw->nkhw", model.head.weight, features)
            assert torch.allclose(maps.mean(dim=(2, 3)) + model.head.bias, model(x), atol=1e-4)


def test_an_unknown_model_or_option_is_named():
    with pytest.raises(RecipeError, match="resnet20"):
        build("resnet21", classes=10, channels=3, input_size=(32, 32))
    with pytest.raises(RecipeError, match="shortcuts"):
        build("resnet20", classes=10, channels=3, input_size=(32, 32), shortcuts="identity")
