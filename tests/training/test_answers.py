import tracemalloc

import numpy as np
import pytest

from training.answers import BATCH, of_network
from training.data.arrays import encode_png
from training.data.augment import Normalise
from training.data.dataset import Item, Split
from training.data.feed import AHEAD, in_order
from training.data.tensors import decode
from training.models import build
from training.recipe import Input
from training.watcher import Watcher

SIDE = 48
RECIPE = Input(height=SIDE, width=SIDE).preprocessing()
NORMALISE = Normalise((0.5,), (0.25,))
NETWORK = build("linear", classes=3, channels=1, input_size=(SIDE, SIDE))


def split_of(count, read=None):
    """Images made when they are read, so that only what a reader keeps takes memory."""
    drawn = [encode_png(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)) for seed in range(7)]
    return Split(
        [Item(lambda n=n: (read(n) if read else None) or drawn[n % 7], str(n), 0, str(n)) for n in range(count)]
    )


def peak_of(count):
    split = split_of(count)
    tracemalloc.start()
    of_network(NETWORK, split, RECIPE, NORMALISE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_number_of_images():
    """Five times the images: 13 MB more if all were held decoded, 28 bytes an image for what is answered."""
    few, many = (peak_of(count) for count in (5 * BATCH, 25 * BATCH))
    assert many - few < 2e6, (few, many)


def test_images_are_read_only_a_few_batches_ahead():
    read = []
    for done, _ in enumerate(in_order(split_of(60, read.append), RECIPE, 4)):
        assert len(read) <= 4 * (done + 1 + AHEAD + 1)
    assert sorted(read) == list(range(60))


def test_streamed_answers_are_those_of_the_whole_split_in_its_order():
    split = split_of(BATCH + 9)
    whole = NETWORK(NORMALISE(decode(split, RECIPE).pixels)).softmax(dim=1).detach().numpy()
    assert of_network(NETWORK, split, RECIPE, NORMALISE) == pytest.approx(whole, abs=1e-6)


def test_a_watcher_is_told_how_many_images_are_done():
    seen = []

    class Told(Watcher):
        def images(self, what, done, total):
            seen.append((done, total))

    of_network(NETWORK, split_of(BATCH + 9), RECIPE, NORMALISE, Told())
    assert seen == [(BATCH, BATCH + 9), (BATCH + 9, BATCH + 9)]
