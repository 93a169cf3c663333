"""Pictures become images of one shape, and grey levels become numbers in [-1, 1] and back.

A picture is decoded as every viewer shows it, upright and opaque, cut to the square in its middle and shrunk. Nothing
is ever enlarged.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8

from ddpm_jax import paths
from ddpm_jax.errors import first_line

if TYPE_CHECKING:
    from PIL.Image import Image

WHITE = "white"
# PIL's modes with an agreed white. A PNG of 16 bits is I;16; I of PGM files has 16 bits, too, and any number elsewhere.
SIXTEEN_BITS = {"I;16", "I;16B", "I;16L", "I;16N"}
GREY = {"1", "L", "LA", "La", *SIXTEEN_BITS}
COLOUR = {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
DECODING = 12  # bytes a pixel: as it is stored, with transparency, and as it is taken
LARGE = 2**26  # pixels from which pictures are decoded one at a time
_one_large_picture = Lock()


class Framing(NamedTuple):
    """What becomes of a picture.

    Attributes:
      size: side of the square that it is shrunk to; default as it is.
      crop: side of the square in its middle that is taken; default its shorter side where it is shrunk, else all of it.
      resample: the filter, a name of PIL.Image.Resampling; all of them average over what they shrink.
      ground: the colour that shows where it is transparent, a name or #rrggbb.
    """

    size: int | None = None
    crop: int | None = None
    resample: str = "BICUBIC"
    ground: str = WHITE


def framed_shape(framing: Framing, size: tuple[int, int] | None, channels: int, name: str) -> tuple[int, int, int]:
    """(H, W, C) of framed pictures.

    Args:
      framing: what becomes of them.
      size: (H, W) that all of them have; None where they differ.
      channels: that they have.
      name: of the data set, for messages.

    Raises:
      ValueError: they would differ in size, not be square or have to be enlarged, or are neither grey nor in colour.
    """
    if channels not in (1, 3):
        raise ValueError(f"images of {name} have {channels} channels: choose a data set with 1 (grey) or 3 (colour)")
    if framing.size is not None and framing.size < 1:
        raise ValueError(f"image_size = {framing.size}: it is at least 1")
    side = framing.size or framing.crop
    if side is None and size is None:
        raise ValueError(f"images of {name} differ in size: give one that all are shrunk to, such as --image-size 64")
    if size is not None:
        most = framing.crop or min(size)
        if side is None and size[0] != size[1]:
            raise ValueError(
                f"images of {name} have {size[0]} x {size[1]} pixels, which is no square: give a side to shrink them "
                f"to, --image-size {most} or less"
            )
        side = side or most
        if side > most or most > min(size):
            raise ValueError(_too_small(framing, size, name))
    assert side is not None
    return side, side, channels


def _too_small(framing: Framing, size: tuple[int, int], name: str) -> str:
    most = min(*size, framing.crop or min(size))
    taken = f", of which the middle {framing.crop} are taken," if framing.crop else ""
    return (
        f"image_size = {framing.size}: images of {name} have {size[0]} x {size[1]} pixels{taken} and are never "
        f"enlarged: give --image-size {most} or less"
    )


def framed(image: "Image", framing: Framing, name: str) -> "Image":
    """The picture cut and shrunk.

    Args:
      image: grey or in colour.
      framing: what becomes of it.
      name: of the picture, for the message.

    Raises:
      ValueError: it would have to be enlarged.
    """
    from PIL.Image import Resampling

    if framing.size is None and framing.crop is None:
        return image
    side = framing.crop or min(image.size)
    size = framing.size or side
    if side > min(image.size) or size > side:
        raise ValueError(_too_small(framing, image.size[::-1], name))
    left, top = ((length - side) // 2 for length in image.size)
    cut = image.crop((left, top, left + side, top + side))
    return cut if size == side else cut.resize((size, size), Resampling[framing.resample])


def framed_array(pixels: UInt8[np.ndarray, "h w c"], framing: Framing, name: str) -> UInt8[np.ndarray, "H W c"]:
    """`framed` of grey levels."""
    from PIL import Image

    if framing.size is None and framing.crop is None:
        return pixels
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    cut = np.asarray(framed(picture, framing, name))
    return cut.reshape(*cut.shape[:2], pixels.shape[2])


def decode(file: bytes | Path, shape: tuple[int, ...], framing: Framing, name: str) -> UInt8[np.ndarray, "h w c"]:
    """One image of an encoded picture, as every viewer shows it: see `_shown`. Of an animation the first frame.

    Args:
      file: its contents, or where it lies.
      shape: (H, W, C) that it must come to.
      framing: what becomes of it.
      name: of the picture or its data set, for messages.

    Raises:
      ValueError: it cannot be decoded, or is of another shape.
    """
    mode = "L" if shape[2] == 1 else "RGB"
    try:
        with _opened(file) as opened:
            large = opened.width * opened.height > LARGE
            with _one_large_picture if large else nullcontext():
                image = _shown(opened, mode, framing.ground)
    except Exception as error:  # whatever PIL raises of damaged files
        raise ValueError(
            f"{name} holds a picture that cannot be decoded ({first_line(error)}): mend or remove it"
        ) from error
    pixels = np.asarray(framed(image, framing, name))
    if pixels.shape[:2] != shape[:2]:
        raise ValueError(
            f"{name} holds a picture of {pixels.shape[0]} x {pixels.shape[1]} pixels where all others have "
            f"{shape[0]} x {shape[1]}: give one size that all are shrunk to, such as --image-size 64"
        )
    return pixels.reshape(shape)


def _opened(file: bytes | Path) -> "Image":
    """A picture of which the header is read; its pixels follow when they are looked at.

    PIL's own limit on their number, which guards servers, gives way to one by this machine's memory.

    Raises:
      ValueError: they would take more than a quarter of it.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(BytesIO(file) if isinstance(file, bytes) else file)
    needed = DECODING * image.width * image.height
    if needed > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4:
        image.close()
        raise ValueError(
            f"its {image.width} x {image.height} pixels need {needed / 2**30:.0f} GiB, more than a quarter of this "
            "machine's memory"
        )
    return image


def _shown(image: "Image", mode: str, ground: str) -> "Image":
    """A picture as every viewer shows it: turned as its EXIF data say, opaque, 16 bits as the nearest of 8.

    Args:
      image: opened.
      mode: of the result, L or RGB.
      ground: the colour that shows where it is transparent.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in SIXTEEN_BITS | {"I"}:
        levels = np.asarray(image)
        grey = Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
        opaque = levels != image.info.get("transparency", -1)
        image = grey if opaque.all() else Image.merge("LA", (grey, Image.fromarray(opaque).convert("L")))
    if image.has_transparency_data:
        under = Image.new("RGBA", image.size, ground)
        under.alpha_composite(image.convert("RGBA"))
        image = under
    return image if image.mode == mode else image.convert(mode)


def header(path: Path, grey_ground: bool = True) -> tuple[tuple[int, int], bool]:
    """(H, W) of a picture as it is stored and whether it is shown in colour, from the beginning of its file.

    Args:
      path: of the picture.
      grey_ground: a shade of grey shows where it is transparent.

    Raises:
      ValueError: it is no picture, or has pixels without an agreed white.
    """
    try:
        with _opened(path) as image:
            mode, size, form = image.mode, image.size[::-1], image.format
            coloured = mode in COLOUR or (image.has_transparency_data and not grey_ground)
    except Exception as error:  # whatever PIL raises of damaged files
        paths.existing(path)
        raise ValueError(f"{path} cannot be read as a picture ({first_line(error)}): mend or remove it") from error
    if mode not in GREY | COLOUR and (mode, form) != ("I", "PPM"):
        raise ValueError(f"{path} has pixels of PIL's mode {mode}, of which nobody knows the white: convert it to RGB")
    return size, coloured


def is_grey(colour: str) -> bool:
    """Whether a colour is a shade of grey.

    Raises:
      ValueError: there is none of this name.
    """
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(colour)[:3]
    except ValueError as error:
        raise ValueError(f"unknown ground {colour!r}: give the name of a colour or #rrggbb") from error
    return red == green == blue


def picture_format(file: bytes) -> str | None:
    """How a picture is stored, for example PNG."""
    from PIL import Image

    return Image.open(BytesIO(file)).format


ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"nearest": np.round, "down": np.floor}
"""down: Nichol & Dhariwal 2021 and Song et al. 2021 (score_sde), released code. nearest: most others."""


def check_rounding(name: str) -> None:
    """Refuse an unknown way of rounding.

    Raises:
      ValueError: it is not of ROUNDINGS.
    """
    if name not in ROUNDINGS:
        raise ValueError(f"unknown rounding {name!r}: choose {' or '.join(ROUNDINGS)}")


def shades(images: UInt8[np.ndarray, "*b h w c"], levels: int) -> UInt8[np.ndarray, "*b h w c"]:
    """Grey levels 0..levels-1 as 0..255, to be looked at or given to other programs."""
    return images if levels == 256 else np.round(images * (255 / (levels - 1))).astype(np.uint8)


def to_unit(images_uint8: UInt8[Array, "b *x"], levels: int) -> Float[Array, "b *x"]:
    """Grey levels 0..levels-1 to [-1, 1]."""
    return images_uint8.astype(jnp.float32) * (2 / (levels - 1)) - 1


def to_levels(
    x: Float[Array, "b *x"] | Float[np.ndarray, "b *x"], levels: int, rounding: str = "nearest"
) -> np.ndarray:
    """[-1, 1] to a grey level 0..levels-1, after clipping, on the host; to the nearest the inverse of `to_unit`.

    Args:
      x: images.
      levels: how many there are.
      rounding: a name of ROUNDINGS.

    Raises:
      ValueError: the rounding is unknown.
    """
    check_rounding(rounding)
    return ROUNDINGS[rounding]((np.clip(np.asarray(x), -1, 1) + 1) * ((levels - 1) / 2)).astype(np.uint8)
