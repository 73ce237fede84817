"""The script that draws the pictures of volumes, on a scan made here."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def script():
    spec = importlib.util.spec_from_file_location("pictures", EXAMPLES / "volume_pictures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pictures"] = module
    spec.loader.exec_module(module)
    return module


def test_outline_and_surface_lie_where_the_object_is():
    """In three planes, however the scan is stored; nearer in mm is nearer in pixels."""
    pictures = script()
    z, y, x = np.indices((12, 50, 40))
    ball = (4 * (z - 6)) ** 2 + (y - 30) ** 2 + (x - 12) ** 2 < 9**2
    scan = sitk.GetImageFromArray(np.where(ball, 200, 40).astype(np.int16))
    scan.SetSpacing((1.0, 1.0, 4.0))
    labels = sitk.GetImageFromArray(ball.astype(np.uint8))
    labels.CopyInformation(scan)
    asked = pictures.Picture(
        name="a.png", scan="", prompts=(), window=(0, 255), side=30, height=120
    )
    rows = [pictures.draw(scan, labels, asked)]
    turned = [sitk.DICOMOrient(image, "SAR") for image in (scan, labels)]
    rows.append(pictures.draw(*turned, asked))
    assert rows[0].size == (4 * 120 + 3 * pictures.GAP, 120)
    assert np.array_equal(rows[0], rows[1])
    for number in range(4):
        panel = np.asarray(rows[0], int)[:, number * 124 : number * 124 + 120]
        orange = panel[..., 0] - panel[..., 2] > 40
        ys, xs = np.nonzero(orange)
        assert abs(ys.mean() - 60) < 5
        assert abs(xs.mean() - 60) < 5
        if number < 3:
            assert abs(np.ptp(xs) - 4 * 17) <= 6
            assert panel[60, 60, 0] == panel[60, 60, 2] == 200
    assert pictures.put_together(rows, down=True).height == 2 * 120 + pictures.GAP


def test_pictures_are_small():
    for name in (picture.name for picture in script().PICTURES):
        assert (EXAMPLES.parent / "images" / name).stat().st_size < 200_000
