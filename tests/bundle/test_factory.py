"""The colour bundle that other tests serve is a true bundle and tells colours apart."""

from factory import COLORS, color_image, publish_colors

from bundle import session
from bundle.preprocess import preprocess
from bundle.store import Store
from bundle.verify import verify


def test_a_published_bundle_verifies_and_answers(tmp_path):
    bundle = publish_colors(tmp_path)
    replays = verify(Store(tmp_path), bundle)
    assert [(r.variant, r.images) for r in replays] == [("fp32", 3)]
    opened = session.open_session(bundle.read("model.onnx"))
    for index, color in enumerate(COLORS):
        rows = preprocess(color_image(color, (40, 30), format="JPEG"), bundle.manifest.preprocessing).pixels[None]
        outputs = session.run(opened, rows)
        assert outputs["probabilities"][0].argmax() == index
        assert abs(outputs["probabilities"][0].sum() - 1) < 1e-6
        assert set(outputs) == {"probabilities", "logits", "embedding"}
