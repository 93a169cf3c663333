"""Pictures become images: the square in the middle, averages where they shrink, one number of channels."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import transforms
from ddpm_jax.data.transforms import Framing
from tests.tfds_folder import encoded, made_up


@pytest.mark.parametrize(("height", "width"), [(20, 20), (21, 30), (34, 19)])
def test_the_square_is_in_the_middle(height: int, width: int) -> None:
    """Half a pixel is left out at the end."""
    pixels = made_up(1, height, width)[0]
    top, left = (height - 15) // 2, (width - 15) // 2
    expected = pixels[top : top + 15, left : left + 15]
    np.testing.assert_array_equal(transforms.framed_array(pixels, Framing(crop=15), "it"), expected)
    np.testing.assert_array_equal(transforms.framed_array(pixels, Framing(15, 15), "it"), expected)


def test_without_a_crop_the_largest_square_is_taken() -> None:
    pixels = made_up(1, 12, 20)[0]
    np.testing.assert_array_equal(transforms.framed_array(pixels, Framing(12), "it"), pixels[:, 4:16])
    assert transforms.framed_array(pixels, Framing(), "it") is pixels


def test_shrinking_by_two_weighs_four_pixels() -> None:
    """The triangle of twice the width has 1/8, 3/8, 3/8, 1/8 at the centres of pixels; pixels outside play no part."""
    pixels = made_up(1, 16, 16, 1)[0]
    pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:] = 0, 0, 0, 0
    shrunk = transforms.framed_array(pixels, Framing(8, resample="BILINEAR"), "it")[..., 0]
    weights = np.array([1, 3, 3, 1]) / 8
    rows = np.stack([weights @ pixels[2 * i - 1 : 2 * i + 3, :, 0] for i in range(1, 7)])
    expected = np.stack([rows[:, 2 * j - 1 : 2 * j + 3] @ weights for j in range(1, 7)], axis=1)
    assert np.abs(shrunk[1:7, 1:7] - expected).max() <= 1  # PIL rounds after either direction


def test_the_default_filter_averages() -> None:
    """Stripes of one pixel become grey, where single pixels would be picked they would stay black or white."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 254
    inner = transforms.framed_array(stripes, Framing(16), "it")[:, 2:-2].astype(int)
    assert np.abs(inner - 127).max() <= 3


@pytest.mark.parametrize(
    ("wanted", "size", "expected"),
    [
        (Framing(), (28, 28), 28),
        (Framing(14), (28, 28), 14),
        (Framing(28), (30, 28), 28),
        (Framing(64, 140), (218, 178), 64),
        (Framing(140, 140), (218, 178), 140),
        (Framing(crop=9), (10, 11), 9),
        (Framing(64), None, 64),
    ],
)
def test_the_shape_is_known_before_a_picture_is_read(
    wanted: Framing, size: tuple[int, int] | None, expected: int
) -> None:
    assert transforms.framed_shape(wanted, size, 3, "it") == (expected, expected, 3)
    if size is not None:
        assert transforms.framed_array(made_up(1, *size)[0], wanted, "it").shape == (expected, expected, 3)


@pytest.mark.parametrize(
    ("wanted", "size", "channels", "message"),
    [
        (Framing(), None, 3, "images of it differ in size: .*--image-size 64"),
        (Framing(), (20, 30), 3, "images of it have 20 x 30 pixels, which is no square: .*--image-size 20 or less"),
        (Framing(29), (28, 40), 1, "image_size = 29: images of it have 28 x 40 pixels and are never enlarged.* 28 or"),
        (Framing(141, 140), (218, 178), 3, "image_size = 141.* 218 x 178 .*middle 140.*--image-size 140 or less"),
        (Framing(64, 140), (100, 178), 3, "100 x 178 pixels, of which the middle 140 are taken"),
        (Framing(0), (28, 28), 1, "image_size = 0: it is at least 1"),
        (Framing(), (28, 28), 4, "images of it have 4 channels: .*1 .grey. or 3 .colour."),
    ],
)
def test_what_does_not_fit_is_refused(
    wanted: Framing, size: tuple[int, int] | None, channels: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        transforms.framed_shape(wanted, size, channels, "it")
    assert "\n" not in str(caught.value)


def test_one_picture_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size = 9: images of it have 8 x 10 pixels and are never enlarged"):
        transforms.framed_array(made_up(1, 8, 10)[0], Framing(9), "it")


def stored(image: Image.Image, kind: str = "PNG", **how) -> bytes:
    image.save(file := BytesIO(), kind, **how)
    return file.getvalue()


def test_pictures_without_loss_are_decoded_exactly(tmp_path: Path) -> None:
    for channels in (1, 3):
        pixels = made_up(1, 7, 7, channels)[0]
        np.testing.assert_array_equal(transforms.decode(encoded(pixels), (7, 7, channels), Framing(), "it"), pixels)
        (tmp_path / "it.png").write_bytes(encoded(pixels))
        decoded = transforms.decode(tmp_path / "it.png", (7, 7, channels), Framing(), "it")
        np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_one_channel_or_three(mode: str) -> None:
    image = Image.fromarray(np.full((6, 6, 3), 255, np.uint8)).convert(mode)
    file = stored(image, "TIFF" if mode == "CMYK" else "PNG")
    for channels in (1, 3):
        assert (transforms.decode(file, (6, 6, channels), Framing(), "it") == 255).all()


GREYS = np.arange(36, dtype=np.uint8).reshape(6, 6)
ALPHA = np.arange(200, 236, dtype=np.uint8).reshape(6, 6)
GROUNDS = {"white": 255, "black": 0, "#808080": 128}


def transparent(mode: str) -> bytes:
    """The grey picture with transparency, in a mode of PIL."""
    if mode == "P":
        return stored(Image.fromarray(GREYS).convert("P"), transparency=bytes(range(200, 236)))
    parts = [*([GREYS] if mode == "LA" else [GREYS] * 3), ALPHA]
    return stored(Image.merge(mode, [Image.fromarray(part) for part in parts]))


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_what_is_transparent_shows_the_ground(mode: str, ground: str) -> None:
    """Porter & Duff 1984: what lies above counts by its opacity, what lies below by the rest."""
    share = ALPHA / 255
    expected = share * GREYS + (1 - share) * GROUNDS[ground]
    for channels in (1, 3):
        found = transforms.decode(transparent(mode), (6, 6, channels), Framing(ground=ground), "it")
        assert np.abs(found - expected[..., None]).max() <= 1


def test_a_grey_level_may_be_transparent() -> None:
    """Of PNGs without a channel for it, of 8 and of 16 bits."""
    wide = (257 * GREYS.astype(np.uint16)).astype(np.uint16)
    for picture, level in ((Image.fromarray(GREYS), 7), (Image.fromarray(wide), 7 * 257)):
        found = transforms.decode(stored(picture, transparency=level), (6, 6, 1), Framing(), "it")
        np.testing.assert_array_equal(found[..., 0], np.where(GREYS == 7, 255, GREYS))


def test_a_ground_is_a_colour(tmp_path: Path) -> None:
    path = tmp_path / "it.png"
    path.write_bytes(transparent("LA"))
    grounds = [transforms.is_grey(ground) for ground in ("white", "#333", "orange")]
    assert [transforms.header(path, ground)[1] for ground in grounds] == [False, False, True]
    with pytest.raises(ValueError, match="unknown ground 'glass': give the name of a colour or #rrggbb"):
        transforms.is_grey("glass")


# How the corner of an F is turned back, by EXIF's number of the way in which it was turned: EXIF 2.32, section 4.6.4.
TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("number", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WebP"])
def test_pictures_stand_upright(number: int, kind: str) -> None:
    pixels = made_up(1, 9, 6)[0]
    exif = Image.Exif()
    exif[0x0112] = number
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, exif=exif, **({"lossless": True} if kind == "WebP" else {}))
    expected = TURNS[number](pixels)
    found = transforms.decode(file.getvalue(), (6, 6, 3), Framing(6), "it")
    top, left = (expected.shape[0] - 6) // 2, (expected.shape[1] - 6) // 2
    np.testing.assert_array_equal(found, expected[top : top + 6, left : left + 6])


def test_sixteen_bits_become_the_nearest_of_eight(tmp_path: Path) -> None:
    levels = np.array([0, 128, 129, 385, 386, 32_767, 65_406, 65_407, 65_535], np.uint16).reshape(3, 3)
    expected = np.floor(levels / 257 + 0.5)
    pgm = b"P5 3 3 65535\n" + levels.astype(">u2").tobytes()
    for kind, file in (("png", stored(Image.fromarray(levels))), ("pgm", pgm), ("tif", tiff_of(levels))):
        np.testing.assert_array_equal(transforms.decode(file, (3, 3, 1), Framing(), "it")[..., 0], expected)
        path = tmp_path / f"it.{kind}"
        path.write_bytes(file)
        assert transforms.header(path) == ((3, 3), False)


def tiff_of(levels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(levels).save(file, "TIFF")
    return file.getvalue()


def test_inks_become_light(tmp_path: Path) -> None:
    """Cyan, magenta, yellow and black ink each take away: light is (1 - ink)(1 - black)."""
    inks = np.random.default_rng(0).integers(0, 256, (8, 8, 4)).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(inks, "CMYK").save(file, "TIFF")
    light = (1 - inks[..., :3] / 255) * (1 - inks[..., 3:] / 255) * 255
    assert np.abs(transforms.decode(file.getvalue(), (8, 8, 3), Framing(), "it") - light).max() <= 1


def test_a_very_large_picture_is_shrunk() -> None:
    """More pixels than PIL's own limit of 179 million, of one bit each: half of them black."""
    pixels = Image.new("1", (14_000, 14_000))
    pixels.paste(1, (0, 0, 7_000, 14_000))
    found = transforms.decode(stored(pixels), (8, 8, 1), Framing(8), "it")[..., 0]
    assert (found[:, :2] == 255).all() and (found[:, 6:] == 0).all()


def test_a_picture_beyond_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    file = encoded(made_up(1, 30, 30)[0])
    monkeypatch.setattr(transforms, "DECODING", 2**40)
    with pytest.raises(ValueError, match=r"it holds a picture that .*its 30 x 30 pixels need 921600 GiB, more than"):
        transforms.decode(file, (30, 30, 3), Framing(), "it")


def test_a_damaged_picture_is_refused() -> None:
    whole = encoded(made_up(1, 30, 30)[0])
    for file in (b"no picture", whole[: len(whole) // 2]):
        with pytest.raises(ValueError, match=r"it holds a picture that cannot be decoded \(.*\): mend or remove it"):
            transforms.decode(file, (30, 30, 3), Framing(), "it")


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="it holds a picture of 6 x 5 pixels where all others have 6 x 6"):
        transforms.decode(encoded(made_up(1, 6, 5)[0]), (6, 6, 3), Framing(), "it")


def test_a_header_says_size_and_colour(tmp_path: Path) -> None:
    for channels, in_colour in ((1, False), (3, True)):
        (tmp_path / "it.png").write_bytes(encoded(made_up(1, 5, 9, channels)[0]))
        assert transforms.header(tmp_path / "it.png") == ((5, 9), in_colour)


def test_a_header_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "it.png"
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"it\.png cannot be read as a picture"):
        transforms.header(path)
    for numbers, mode in ((np.zeros((4, 4), np.int32), "I"), (np.zeros((4, 4), np.float32), "F")):
        path.write_bytes(tiff_of(numbers))
        with pytest.raises(ValueError, match=f"it.png has pixels of PIL's mode {mode}, of which nobody knows"):
            transforms.header(path)


def test_the_kind_of_a_picture() -> None:
    assert [transforms.picture_format(encoded(made_up(1, 5, 5)[0], kind)) for kind in ("PNG", "JPEG")] == [
        "PNG",
        "JPEG",
    ]
