"""A graph whose names are no UTF-8, so that ONNX Runtime cannot even say what is wrong with it."""

from __future__ import annotations

import pytest
from tiny_bundle import Weights, images, relist, write_image_bundle

from mingle_edge_runtime import BundleError, EdgeModel


@pytest.mark.parametrize("name", ["tower.onnx", "router.onnx"])
def test_it_is_an_error_and_nothing_is_printed(name: str, tmp_path, capfd) -> None:
    bundle = write_image_bundle(tmp_path / "bundle", Weights())
    content = (bundle / name).read_bytes()
    assert b"axes" in content  # an attribute
    (bundle / name).write_bytes(content.replace(b"axes", b"axe\xff"))
    relist(bundle, name)
    with pytest.raises(BundleError, match=f"{name} does not load in ONNX Runtime"), EdgeModel.open(bundle) as model:
        model.embed(images(0))
    assert capfd.readouterr() == ("", "")
