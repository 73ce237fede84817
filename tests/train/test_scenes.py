"""Drawn scenes keep the promises that training relies on."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from samplat import InputError
from samplat_train.scene_store import write_scenes
from samplat_train.scenes import KINDS, Scene, draw_scene
from samplat_train.scenes.canvas import blank_canvas
from samplat_train.scenes.cutouts import has_cutouts, set_cutout, use_cutouts
from samplat_train.scenes.photos import has_photos, photo_patch, photo_view, use_photos

SIZE = 192
MIN_VISIBLE = 30


def _draw(seed: int, kind: str | None = None, size: int = SIZE) -> Scene:
    return draw_scene(np.random.default_rng(seed), size=size, kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_draws_the_same_scene(kind: str) -> None:
    first, second = _draw(5, kind), _draw(5, kind)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.labels, second.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_other_seeds_draw_other_scenes(kind: str) -> None:
    assert not np.array_equal(_draw(1, kind).image, _draw(2, kind).image)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from([*KINDS, None]))
def test_arrays_are_what_the_scene_promises(seed: int, kind: str | None) -> None:
    scene = _draw(seed, kind)
    assert scene.kind in KINDS
    assert kind in (None, scene.kind)
    assert scene.image.dtype == np.uint8
    assert scene.image.shape == (SIZE, SIZE, 3)
    assert scene.labels.dtype == np.uint16
    assert scene.labels.shape[1:] == (SIZE, SIZE)
    assert 1 <= len(scene.labels) <= 2
    for level in scene.labels:
        _assert_dense_and_visible(level)


def _assert_dense_and_visible(level: np.ndarray) -> None:
    counts = np.bincount(level.ravel())[1:]
    assert (counts >= MIN_VISIBLE).all(), "ids are dense and none is too small to see"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_draws_objects_and_contrast(kind: str) -> None:
    scenes = [_draw(seed, kind, 256) for seed in range(4)]
    assert sum(int(scene.labels[0].max()) for scene in scenes) >= 4
    assert np.median([scene.image.std() for scene in scenes]) > 8


@pytest.mark.parametrize("kind", KINDS)
def test_parts_lie_on_objects(kind: str) -> None:
    nested = [s for s in (_draw(seed, kind, 256) for seed in range(6)) if len(s.labels) == 2]
    assert nested, "each kind draws parts now and then"
    on_objects = np.mean([(s.labels[0] > 0)[s.labels[1] > 0].mean() for s in nested])
    assert on_objects > 0.95


def test_every_kind_is_drawn_without_asking() -> None:
    assert {_draw(seed, size=64).kind for seed in range(50)} == set(KINDS)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="'etching'"):
        _draw(0, "etching")


@pytest.fixture
def photos(tmp_path):
    """A folder of two photographs, one flat red, one flat green, and the library as it was."""
    for name, colour in (("red", (250, 10, 10)), ("green", (10, 250, 10))):
        Image.fromarray(np.full((80, 120, 3), colour, np.uint8)).save(tmp_path / f"{name}.png")
    yield tmp_path
    use_photos(None)


def test_photographs_of_a_folder_become_patches_and_views(photos):
    use_photos(photos)
    rng = np.random.default_rng(0)
    views = np.stack([photo_view(rng, 32)[0, 0] for _ in range(20)])
    assert set(map(tuple, (views > 0.5).tolist())) == {(True, False, False), (False, True, False)}
    patches = np.stack([photo_patch(rng, (8, 8)).mean((0, 1)) for _ in range(60)])
    ours = ((patches > 0.9) | (patches < 0.1)).all(axis=1)
    assert 0.6 < ours.mean() < 1
    use_photos(None)
    assert not has_photos()


def test_the_same_scene_with_and_without_photographs_differs_and_repeats(photos, tmp_path):
    folders = [tmp_path / name for name in ("plain", "first", "again")]
    for folder, source in zip(folders, (None, photos, photos), strict=True):
        write_scenes(folder, 2, size=64, kind="natural", seed=3, photos=source)
    plain, first, again = (np.load(f / "images" / "000001.npy") for f in folders)
    assert np.array_equal(first, again)
    assert not np.array_equal(plain, first)
    assert not has_photos()  # nothing of it is left for the next


def test_a_folder_without_photographs_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected photographs .* found none"):
        write_scenes(tmp_path / "out", 1, size=64, photos=tmp_path)


def test_a_damaged_photograph_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    use_photos(tmp_path)
    try:
        with pytest.raises(InputError, match=r"broken\.jpg cannot be read as a photograph"):
            photo_view(np.random.default_rng(0), 16)
    finally:
        use_photos(None)


@pytest.fixture
def cutouts(tmp_path):
    """A folder with one red ellipse, and the library as it was."""
    y, x = np.mgrid[:60, :100]
    inside = ((x - 49.5) / 40) ** 2 + ((y - 29.5) / 20) ** 2 <= 1
    rgba = np.zeros((60, 100, 4), np.uint8)
    rgba[inside] = (230, 20, 20, 255)
    Image.fromarray(rgba).save(tmp_path / "ellipse.png")
    yield tmp_path
    use_cutouts(None)


@settings(max_examples=30, deadline=None)
@example(seed=517, x=-37.0, y=0.0)
@given(seed=st.integers(0, 1000), x=st.floats(-40, 240), y=st.floats(-40, 240))
def test_a_cutout_is_an_object_where_it_is_seen(
    tmp_path_factory: pytest.TempPathFactory, seed: int, x: float, y: float
) -> None:
    folder = tmp_path_factory.mktemp("cutouts")
    Image.new("RGBA", (50, 30), (230, 20, 20, 255)).save(folder / "card.png")
    use_cutouts(folder)
    try:
        canvas = blank_canvas(np.zeros((200, 200, 3), np.float32))
        stamp = set_cutout(np.random.default_rng(seed), canvas, (x, y), 80)
    finally:
        use_cutouts(None)
    red, whole = canvas.image[..., 0] > 0.25, canvas.whole > 0
    assert whole.sum() == stamp.mask.sum()
    # Its edge is drawn smoothly: only there may picture and mask disagree.
    edge = ndimage.binary_dilation(whole) & ~ndimage.binary_erosion(whole, border_value=1)
    edge = ndimage.binary_dilation(edge)
    # So is one just outside of the picture.
    inner = np.s_[2:-2, 2:-2]
    assert np.array_equal((red & ~edge)[inner], (whole & ~edge)[inner])


def test_scenes_with_cutouts_show_them_and_repeat(cutouts, tmp_path):
    for name in ("first", "again"):
        write_scenes(tmp_path / name, 8, size=128, kind="natural", seed=1, cutouts=cutouts)
    assert not has_cutouts()
    shown = 0
    for i in range(8):
        first, again = (
            np.load(tmp_path / name / "images" / f"{i:06}.npy") for name in ("first", "again")
        )
        assert np.array_equal(first, again)
        labels = np.load(tmp_path / "first" / "labels" / f"{i:06}.npy")[0]
        pixels = first[labels > 0].astype(int)
        shown += len(pixels) > 0 and (pixels[:, 0] > 1.5 * pixels[:, 1]).mean() > 0.7
    assert shown >= 2


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (Image.new("RGB", (8, 8)), "none of them alpha"),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "all of it is transparent"),
    ],
)
def test_what_is_no_cutout_is_named(tmp_path, picture, reason):
    picture.save(tmp_path / "it.png")
    with pytest.raises(InputError, match=rf"it\.png cannot be read as a cut-out: .*{reason}"):
        write_scenes(tmp_path / "out", 20, size=64, kind="natural", cutouts=tmp_path)
    (tmp_path / "it.png").unlink()
    with pytest.raises(InputError, match="expected cut-outs with an alpha channel"):
        use_cutouts(tmp_path)
