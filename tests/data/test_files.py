"""Folders of image files and arrays in .npz files become data sets, or are refused in one line."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data.sources import files
from ddpm_jax.data.sources.records import Records, decoded
from ddpm_jax.data.transforms import Framing
from tests.tfds_folder import encoded, made_up


def all_of(records: Records) -> tuple[np.ndarray, np.ndarray | None]:
    return decoded(records, np.arange(records.n), "it")


def filled(folder: Path, images: np.ndarray, names: list[str]) -> Path:
    for image, name in zip(images, names, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image, {"jpg": "JPEG", "bmp": "BMP", "webp": "WebP"}.get(path.suffix[1:], "PNG")))
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_whole_and_in_the_order_of_names(tmp_path: Path, channels: int) -> None:
    images = made_up(4, 8, 8, channels)
    filled(tmp_path, images, ["a/2.png", "a/b/1.PNG", "a/c.bmp", "z.png"])
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    found = files.read(tmp_path, Framing())
    assert (found.n, found.shape, found.label) == (4, (8, 8, channels), None)
    np.testing.assert_array_equal(all_of(found)[0], images)


def test_jpeg_and_webp_are_read(tmp_path: Path) -> None:
    grey = np.full((2, 16, 16, 3), 100, np.uint8)
    found, _ = all_of(files.read(filled(tmp_path, grey, ["a.jpg", "b.webp"]), Framing()))
    assert np.abs(found.astype(int) - 100).max() <= 2


def test_one_image_in_colour_makes_all_of_them_so(tmp_path: Path) -> None:
    grey, colour = made_up(3, 8, 8, 1), made_up(1, 8, 8, 3)
    filled(tmp_path, grey, ["a.png", "b.png", "c.png"])
    filled(tmp_path, colour, ["d.png"])
    found, _ = all_of(files.read(tmp_path, Framing()))
    np.testing.assert_array_equal(found[:3], grey.repeat(3, axis=-1))
    np.testing.assert_array_equal(found[3:], colour)


def test_alpha_and_palettes_become_colours(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), (255, 0, 51), np.uint8)
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "a.png")
    Image.fromarray(pixels).convert("P", palette=Image.Palette.WEB).save(tmp_path / "b.png")
    found, _ = all_of(files.read(tmp_path, Framing()))
    assert (found == pixels).all()


def test_pictures_of_several_sizes_need_one(tmp_path: Path) -> None:
    for i, (height, width) in enumerate([(8, 12), (20, 9), (10, 10)]):
        filled(tmp_path, made_up(1, height, width), [f"{i}.png"])
    with pytest.raises(ValueError, match=f"images of {tmp_path} differ in size.*--image-size 64"):
        files.read(tmp_path, Framing())
    assert all_of(files.read(tmp_path, Framing(8)))[0].shape == (3, 8, 8, 3)
    with pytest.raises(ValueError, match=r"image_size = 9: images of .*0\.png have 8 x 12 pixels and are never"):
        files.read(tmp_path, Framing(9))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "is not there"),
        ("nothing.npz", "is not there"),
        ("notes.txt", "is a file of another kind, and no .npz"),
        ("plain", "is a file of another kind, and no .npz"),
        ("a.npy", "is one array of NumPy, and no .npz"),
        ("A.NPY", "is one array of NumPy, and no .npz"),
        ("a.zip", "is an archive, which has to be unpacked, and no .npz"),
        ("a.PNG", "is a single picture, and no .npz"),
        ("broken.npz", "is a link to elsewhere, which is not there"),
        ("pipe", "is neither a folder nor a file"),
    ],
)
def test_a_path_to_something_else_is_told_what_it_is(tmp_path: Path, name: str, said: str) -> None:
    for other in ("notes.txt", "plain", "a.npy", "A.NPY", "a.zip", "a.PNG"):
        (tmp_path / other).touch()
    (tmp_path / "broken.npz").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / name, str(tmp_path / name)):
        with pytest.raises(
            ValueError, match=r": give a folder of images, or an \.npz of the array `images`$"
        ) as refused:
            files.read(path, Framing())
        assert str(refused.value).startswith(f"{tmp_path / name} {said}: ")


@pytest.mark.parametrize("name", ["A.NPZ", "a.Npz", "~.npz"])
def test_an_npz_is_one_whatever_its_suffix_looks_like(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        np.savez(file, images=made_up(3, 8, 8, 1))
    assert files.read(tmp_path / name, Framing()).n == 3


def test_a_folder_called_as_an_npz_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a.npz"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"a\.npz holds no pictures: give a folder with image files"):
        files.read(folder, Framing())
    assert files.read(filled(folder, made_up(2, 8, 8, 1), ["0.png", "1.png"]), Framing()).n == 2


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=f"{tmp_path} holds no pictures beside 1 .txt: give a folder with image files"):
        files.read(tmp_path, Framing())


# ---------------------------------------------------------------- which files of a folder


def thirty(folder: Path, seed: int = 0) -> Path:
    return filled(folder, np.random.default_rng(seed).integers(0, 256, (30, 4, 4, 3)).astype(np.uint8), NAMES)


NAMES = [f"{i:02}.png" for i in range(30)]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    thirty(tmp_path / "all" / "dogs")
    (tmp_path / "all" / "cats").symlink_to(thirty(tmp_path / "elsewhere", 1))
    (tmp_path / "linked").symlink_to(tmp_path / "all")
    assert files.read(tmp_path / "all", Framing()).n == files.read(tmp_path / "linked", Framing()).n == 60
    (tmp_path / "cats alone").mkdir()
    (tmp_path / "cats alone" / "cats").symlink_to(tmp_path / "elsewhere")
    found = files.read(tmp_path / "cats alone", Framing())
    assert (found.n, found.note) == (30, "")


@pytest.mark.parametrize("target", [".", "..", "b"])
def test_a_link_that_leads_back_is_refused(tmp_path: Path, target: str) -> None:
    thirty(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "loop").symlink_to((tmp_path / "a" / target).resolve())
    with pytest.raises(ValueError, match=r"a/b/loop.* is a link to .*, which it lies in: remove it"):
        files.read(tmp_path / "a", Framing())


def test_what_is_left_out_of_a_folder_is_noted(tmp_path: Path) -> None:
    thirty(tmp_path)
    thirty(tmp_path / ".ipynb_checkpoints")
    (tmp_path / "._00.png").write_bytes(b"what macOS leaves on other disks")
    (tmp_path / "labels.csv").write_text("0,cat")
    (tmp_path / "more.csv").write_text("1,dog")
    (tmp_path / "README").write_text("photos")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert files.read(tmp_path, Framing()).note == (
        "30 images; left out: 2 .csv, 1 broken links, 2 hidden, 1 special files, 1 without suffix"
    )


def test_pictures_of_every_kind_that_PIL_reads_are_taken(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    for suffix in ("gif", "tif", "TIFF", "ppm", "tga", "jp2", "avif", "jfif", "ico", "qoi"):
        Image.fromarray(pixels).save(tmp_path / f"it.{suffix}")
    (tmp_path / "plot.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0")  # a program, which another program would run
    found, _ = all_of(files.read(tmp_path, Framing()))
    assert found.shape == (10, 8, 8, 3) and np.abs(found.astype(int) - pixels).max() <= 6


def test_copies_are_known_by_their_contents(tmp_path: Path) -> None:
    thirty(tmp_path)
    (tmp_path / "a copy of 07.png").write_bytes((tmp_path / "07.png").read_bytes())
    (tmp_path / "z.png").symlink_to(tmp_path / "00.png")
    found = files.read(tmp_path, Framing())
    assert found.copies is not None
    assert found.copies.tolist() == [*range(30), 7, 0]
    assert found.note == "32 images; 2 are copies of others, which are kept in one part"


@pytest.mark.parametrize("name", ["images", "arr_0"])
@pytest.mark.parametrize("labels", [None, np.arange(5, dtype=np.int32)])
def test_an_array_is_read_with_its_labels(tmp_path: Path, name: str, labels: np.ndarray | None) -> None:
    images = made_up(5, 8, 8)
    np.savez(tmp_path / "it.npz", **{name: images}, **({} if labels is None else {"labels": labels}))
    found, found_labels = all_of(files.read(tmp_path / "it.npz", Framing()))
    np.testing.assert_array_equal(found, images)
    if labels is None:
        assert found_labels is None
    else:
        np.testing.assert_array_equal(found_labels, labels)


@pytest.mark.parametrize("name", ["it.npz", "IT.NPZ"])
def test_an_array_is_read_in_either_order_of_memory_and_spelling(tmp_path: Path, name: str) -> None:
    images = made_up(5, 8, 8)
    with (tmp_path / name).open("wb") as file:
        np.savez(file, images=np.asfortranarray(images))
    np.testing.assert_array_equal(all_of(files.read(tmp_path / name, Framing()))[0], images)


def test_a_grey_array_needs_no_channels_and_is_shrunk(tmp_path: Path) -> None:
    images = made_up(5, 8, 12, 1)
    np.savez(tmp_path / "it.npz", images=images[..., 0])
    found, _ = all_of(files.read(tmp_path / "it.npz", Framing(8)))
    np.testing.assert_array_equal(found, images[:, :, 2:10])
    assert files.read(tmp_path / "it.npz", Framing(4)).shape == (4, 4, 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "has no array `images`, only x: rename one"),
        ({"images": np.zeros((5, 8, 8, 3))}, r"holds images of float64 and shape \(5, 8, 8, 3\): it is uint8"),
        ({"arr_0": np.zeros((5, 8), np.uint8)}, r"holds arr_0 of uint8 and shape \(5, 8\): it is uint8 of shape"),
        ({"images": np.zeros((5, 8, 8, 2), np.uint8)}, "have 2 channels"),
        ({"images": np.zeros((5, 8, 9), np.uint8)}, "8 x 9 pixels, which is no square"),
        ({"images": np.zeros((5, 8, 8), np.uint8), "labels": np.zeros(4, int)}, r"shape \(4,\): it is one integer an"),
        ({"images": np.zeros((5, 8, 8), np.uint8), "labels": np.zeros(5)}, "labels of float64"),
        ({"images": np.array([None])}, "cannot be read"),
    ],
)
def test_an_array_of_something_else_is_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "it.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        files.read(tmp_path / "it.npz", Framing())
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "it.npz", images=made_up(5, 8, 8))
    whole = (tmp_path / "it.npz").read_bytes()
    for part in (b"", b"no archive", whole[: len(whole) // 2]):
        (tmp_path / "it.npz").write_bytes(part)
        with pytest.raises(ValueError, match=r"it\.npz cannot be read \(.*\): write it again by numpy\.savez"):
            files.read(tmp_path / "it.npz", Framing())
