import pytest

from training.__main__ import main
from training.describe import describe
from training.models import build


def found(name, size, channels=3, **options):
    classes = 10 if size < 100 else 1000
    return describe(
        build(name, classes=classes, channels=channels, input_size=(size, size), **options), channels, (size, size)
    )


@pytest.mark.parametrize(
    ("name", "size", "depth", "parameters", "gflops"),
    [
        ("resnet20", 32, 20, 269_722, 0.0816),
        ("plain20", 32, 20, 269_722, 0.0816),
        ("resnet18", 224, 18, 11_689_512, 3.628),
    ],
)
def test_the_totals_are_those_of_the_papers(name, size, depth, parameters, gflops):
    """He et al.: 20 and 18 layers; 1.8e9 multiply-adds for ResNet-18, counted here as two operations each."""
    told = found(name, size)
    assert (told.depth, told.parameters) == (depth, parameters)
    assert told.flops / 1e9 == pytest.approx(gflops, rel=0.01)


def test_the_receptive_field_grows_by_kernel_and_stride():
    """VGG-11 by hand: 3, pool 4, 8, pool 10, 18, 26, pool 30, 46, 62, pool 70, 102, 134, pool 150."""
    fields = [
        layer.field for layer in found("vgg11_bn", 32, stem="small").layers if layer.kind in ("Conv2d", "MaxPool2d")
    ]
    assert fields == [3, 4, 8, 10, 18, 26, 30, 46, 62, 70, 102, 134, 150]


def test_a_table_sums_to_its_totals():
    told = found("lenet", 28, channels=1)
    assert sum(layer.parameters for layer in told.layers) == told.parameters == 61_706
    assert told.layers[0].shape == (6, 28, 28)


def test_describe_prints_the_table(capsys):
    assert main(["describe", "perceptron", "--input", "1x28x28", "--classes", "10"]) == 0
    assert "3 layers with weights, 51,450 parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet20", "--input", "32x32"], "such as 3x224x224"),
        (["resnet19"], "unknown"),
        (["resnet18", "--options", "stem=small"], "JSON"),
        (["vgg16", "--input", "3x32x32"], "stem small"),
    ],
    ids=" ".join,
)
def test_describe_refuses_what_it_cannot_do(arguments, words, capsys):
    assert main(["describe", *arguments]) == 2
    assert words in capsys.readouterr().err
