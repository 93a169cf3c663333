"""Damaged and odd files: refused in one line that names them, or read as every other program reads them."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save, save_file

from ddpm_jax.data import datasets, transforms
from ddpm_jax.data.transforms import Framing
from tests import golden
from tests.cli.conftest import TRAINING
from tests.cli.test_bad_input import refused, snapshot
from tests.cli.test_weights import pipeline

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)


def picture(kind: str, pixels: np.ndarray = PIXELS[0], **options: object) -> bytes:
    Image.fromarray(pixels).save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *more: bytes, data: bytes = b"") -> bytes:
    """A PNG of grey levels whose header says so many pixels, whatever follows."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def half(file: bytes) -> bytes:
    return file[: len(file) // 2]


def flipped(file: bytes) -> bytes:
    """One byte in the middle is another."""
    middle = len(file) // 2
    return file[:middle] + bytes([file[middle] ^ 0xFF]) + file[middle + 1 :]


def npz(**arrays: np.ndarray) -> bytes:
    np.savez(file := io.BytesIO(), **arrays)
    return file.getvalue()


def lying(shape: str, version: bytes = b"\x01\x00") -> bytes:
    """An .npz whose array is said to be of this shape and holds nothing."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    array = b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode()
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("images.npy", array)
    return file.getvalue()


def encrypted(file: bytes) -> bytes:
    """The flag that says so is set in every header of an archive."""
    found = bytearray(file)
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = found.find(mark)
        while at >= 0:
            found[at + place] |= 1
            at = found.find(mark, at + 1)
    return bytes(found)


MANY = zlib.compress(bytes(2**27), 9)  # 128 MiB of zeros in 128 KiB
PICTURES: dict[str, bytes] = {
    "empty.png": b"",
    "text.png": b"a letter\n",
    "cut.png": half(picture("PNG")),
    "flipped.png": flipped(picture("PNG")),
    "archive.png": npz(images=PIXELS),
    "huge header.png": png(2**31 - 1, 2**31 - 1),
    "wide header.png": png(200_000, 200_000),
    "no pixels.png": png(8, 8),
    "nothing wide.png": png(0, 8),
    "bomb of text.png": png(8, 8, chunk(b"zTXt", b"a\0\0" + MANY), data=bytes(72)),
    "cut.jpg": half(picture("JPEG")),
    "only the beginning.jpg": picture("JPEG")[:3],
    "cut.gif": picture("GIF")[:30],
    "cut.webp": half(picture("WEBP")),
    "cut.tif": half(picture("TIFF")),
    "cut.bmp": half(picture("BMP")),
    "cut.tga": half(picture("TGA")),
    "cut.jp2": half(picture("JPEG2000")),
    "cut.avif": half(picture("AVIF")),
    "no pixels.ppm": b"P6 8 8 255\n",
    "words.ppm": b"P6 eight eight 255\n",
    "empty.ico": b"\0\0\1\0\0\0",
    "numbers.tif": picture("TIFF", PIXELS[0, ..., 0].astype(np.float32)),
    "whole numbers.tif": picture("TIFF", PIXELS[0, ..., 0].astype(np.int32)),
    "small.png": picture("PNG", PIXELS[0, :4, :4]),
    "oblong.png": picture("PNG", PIXELS[0, :, :4]),
    "pointer.png": b"version https://git-lfs.github.com/spec/v1\n",
}
ARRAYS: dict[str, bytes] = {
    "empty.npz": b"",
    "text.npz": b"a letter\n",
    "cut.npz": half(npz(images=PIXELS)),
    "flipped.npz": flipped(npz(images=PIXELS)),
    "one array.npz": npz(images=PIXELS)[30:],
    "picture.npz": picture("PNG"),
    "pickled.npz": npz(images=np.array([{"a": 1}] * 40)),
    "encrypted.npz": encrypted(npz(images=PIXELS)),
    "empty archive.npz": b"PK\x05\x06" + bytes(18),
    "no arrays.npz": encrypted(b"PK\x05\x06" + bytes(18)),
    "other names.npz": npz(x=PIXELS),
    "fractions.npz": npz(images=PIXELS / 255),
    "signed.npz": npz(images=PIXELS.astype(np.int16)),
    "flat.npz": npz(images=PIXELS.reshape(40, -1)),
    "deep.npz": npz(images=PIXELS[None]),
    "channels first.npz": npz(images=PIXELS.transpose(0, 3, 1, 2)),
    "none.npz": npz(images=PIXELS[:0]),
    "few.npz": npz(images=PIXELS[:19]),
    "no number.npz": npz(images=np.uint8(1)),
    "columns.npz": npz(images=np.zeros(40, [("a", "u1")])),
    "more than memory.npz": lying("(1000000, 1000000, 1000, 3)"),
    "less than said.npz": lying("(40, 8, 8, 3)"),
    "negative.npz": lying("(-40, 8, 8, 3)"),
    "no shape.npz": lying("eight"),
    "of tomorrow.npz": lying("(40, 8, 8, 3)", b"\x09\x00"),
    "labels.npz": npz(images=PIXELS, labels=np.arange(39)),
    "one picture.npz": npz(images=PIXELS[:1].repeat(40, axis=0)),
    "pointer.npz": b"version https://git-lfs.github.com/spec/v1\n",
}


def folder_with(root: Path, name: str) -> Path:
    """A folder of pictures, one of them odd."""
    for i, pixels in enumerate(PIXELS):
        (root / "photos" / f"{i:02}.png").parent.mkdir(exist_ok=True)
        (root / "photos" / f"{i:02}.png").write_bytes(picture("PNG", pixels))
    (root / "photos" / name).write_bytes(PICTURES[name])
    return root / "photos"


def file_of(root: Path, name: str, contents: bytes) -> Path:
    (root / name).write_bytes(contents)
    return root / name


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_cannot_be_taken_is_named(tmp_path: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    data = folder_with(tmp_path, name)
    before = snapshot(tmp_path)
    said = refused("train", [*TRAINING, "--data", str(data), "--workdir", str(tmp_path / "new")], capsys)
    assert name in said or (name in ("small.png", "oblong.png") and f"images of {data} differ in size" in said)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_cannot_be_taken_is_named(tmp_path: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    data = file_of(tmp_path, name, ARRAYS[name])
    before = snapshot(tmp_path)
    for command in ("train", "ablate"):
        argv = ["--preset", "tiny", "--data", str(data), "--workdir", str(tmp_path / "new")]
        assert name in refused(command, argv, capsys)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["empty.npz", "text.npz", "cut.npz", "encrypted.npz", "other names.npz", "pickled.npz", "pointer.npz"]
)
def test_other_files_than_moments_and_samples_are_named(
    trained: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    file = file_of(tmp_path, name, ARRAYS[name])
    before = snapshot(tmp_path)
    of_a_run = ["--workdir", str(trained), "--K", "3", "--out", str(tmp_path / "new")]
    fid = ["--reference", "digits", "--inception", str(file), "--workdir", str(tmp_path / "new")]
    for command, argv in (
        ("sample", [*of_a_run, "--variance", "isotropic", "--moments", str(file)]),
        ("fid", ["--samples", str(file), *fid]),
    ):
        assert name in refused(command, argv, capsys)
    assert snapshot(tmp_path) == before


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(kind: str = "F32", shape: tuple[int, ...] = (2,), end: int = 8) -> dict[str, object]:
    """The header of a file of one array."""
    return {"a": {"dtype": kind, "shape": [*shape], "data_offsets": [0, end]}}


SAID = golden.weights(golden.HERE / "improved_diffusion_fixed/weights.json")  # by a state dict
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
WEIGHTS: dict[str, bytes] = {
    "empty": b"",
    "text": b"a letter\n",
    "a pointer of git-lfs": POINTER,
    "a picture": picture("PNG"),
    "an archive": npz(a=PIXELS),
    "cut": half(safetensors(one(), bytes(8))),
    "a header longer than the file": safetensors({}, length=2**20),
    "a header of exabytes": safetensors({}, length=2**62),
    "no header": bytes(8),
    "a header of text": safetensors(b"eight"),
    "a header of a list": safetensors([1]),
    "a header of bytes": safetensors(b"\xff\xfe{}"),
    "less than said": safetensors(one(), bytes(4)),
    "more than said": safetensors(one(), bytes(12)),
    "a negative shape": safetensors(one(shape=(-2,)), bytes(8)),
    "another size": safetensors(one(shape=(3,)), bytes(8)),
    "complex": safetensors(one("C64", (1,)), bytes(8)),
    "of tomorrow": safetensors(one("F3"), bytes(8)),
    "no arrays": safetensors({}),
    "other arrays": safetensors(one(), bytes(8)),
    "numbers in the place of arrays": save({name: np.full((), 1, np.float32) for name in SAID}),
}
DESCRIPTIONS: dict[str, bytes] = {
    "empty": b"",
    "text": b"a letter",
    "a pointer of git-lfs": POINTER,
    "a picture": picture("PNG"),
    "cut": b'{"in_channels": ',
    "a list": b"[1, 2]",
    "a number": b"1e400",
    "bytes": b"\xff\xfe{}",
    "depths": b"[" * 100_000,
    "numbers as words": b'{"block_out_channels": "16", "num_train_timesteps": "many", "image_size": "small"}',
    "huge numbers": b'{"layers_per_block": 1e99, "num_train_timesteps": 1e99, "num_res_blocks": 1e99}',
    "lists of nothing": b'{"block_out_channels": [], "trained_betas": [], "channel_mult": []}',
    "nothing": b'{"norm_num_groups": null, "beta_schedule": null, "num_channels": null}',
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_other_files_than_weights_are_named(
    trained: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    """By every command that reads weights; the network is described rightly."""
    folder = pipeline(tmp_path / "theirs", _class_name="DDPMScheduler")
    file_of(folder / "unet", "diffusion_pytorch_model.safetensors", WEIGHTS[name])
    alone = file_of(tmp_path, "weights.safetensors", WEIGHTS[name])
    description = file_of(tmp_path, "network.json", (golden.HERE / "improved_diffusion_fixed/config.json").read_bytes())
    samples = file_of(tmp_path, "samples.npz", npz(arr_0=PIXELS))
    before, new = snapshot(tmp_path), tmp_path / "new"
    of_digits = ["--data", "digits", "--workdir", new]
    within = folder / "unet/diffusion_pytorch_model.safetensors"
    for file, command, argv in (
        (within, "import", ["--weights", folder, *of_digits]),
        (alone, "import", ["--weights", alone, "--description", description, *of_digits]),
        (within, "reproduce_analytic_dpm", ["--weights", folder, *of_digits]),
        (alone, "fid", ["--samples", samples, "--reference", "digits", "--inception", alone, "--workdir", new]),
    ):
        assert str(file) in refused(command, argv, capsys)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_other_files_than_descriptions_are_named(tmp_path: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    """Of networks, schedulers, pipelines and betas."""
    contents, new = DESCRIPTIONS[name], tmp_path / "new"
    save_file(SAID, tmp_path / "weights.safetensors")
    places = {}
    for part, place in (("unet", "unet/config.json"), ("scheduler", "scheduler/scheduler_config.json")):
        places[part] = pipeline(tmp_path / part, _class_name="DDPMScheduler")
        file_of(places[part], place, contents)
    alone = file_of(tmp_path, "network.json", contents)
    before = snapshot(tmp_path)
    of_digits = ["--data", "digits", "--workdir", new]
    for file, command, argv in (
        ("unet/config.json", "import", ["--weights", places["unet"], *of_digits]),
        ("scheduler_config.json", "import", ["--weights", places["scheduler"], *of_digits]),
        ("scheduler_config.json", "reproduce_analytic_dpm", ["--weights", places["scheduler"], *of_digits]),
        (
            "network.json",
            "import",
            ["--weights", tmp_path / "weights.safetensors", "--description", alone, *of_digits],
        ),
        ("network.json", "train", ["--preset", "tiny", "--schedule", alone, *of_digits]),
        ("network.json", "sample", ["--denoiser", "a:b", "--schedule", alone, "--workdir", new]),
        ("network.json", "ablate", ["--preset", "tiny", "--schedule", alone, *of_digits]),
    ):
        assert file in refused(command, argv, capsys)
    assert snapshot(tmp_path) == before


WORKDIRS: dict[str, str] = {
    "empty": "",
    "cut": '{"config": {',
    "list": "[1, 2]",
    "text": '{"config": "fast"}',
    "number": '{"config": {"checkpoints": 5}}',
    "list of folders": '{"config": {"checkpoints": ["a"]}}',
    "depths": "[" * 100_000,
}


@pytest.mark.parametrize("name", WORKDIRS)
def test_a_workdir_whose_description_is_damaged_is_named(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    file_of(tmp_path, "config.json", WORKDIRS[name].encode())
    before = snapshot(tmp_path)
    for command, option in (
        ("sample", "--workdir"),
        ("export", "--workdir"),
        ("ablate", "--checkpoint"),
        ("heads", "--checkpoint"),
    ):
        assert str(tmp_path) in refused(command, [option, str(tmp_path)], capsys)
    assert snapshot(tmp_path) == before


# ---------------------------------------------------------------- odd, and well-formed


def interlaced() -> bytes:
    """PIL cannot write Adam7; of one pixel it is the pixel."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1))
    data = chunk(b"IDAT", zlib.compress(bytes([0, 9, 8, 7])))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def upright_of(turned: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture("PNG", np.rot90(turned), exif=exif)


def invisible(pixels: np.ndarray) -> bytes:
    return picture("PNG", np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=-1))


ODD: dict[str, tuple[Callable[[np.ndarray], bytes], Callable[[np.ndarray], np.ndarray]]] = {
    "A.PNG": (lambda x: picture("PNG", x), lambda x: x),
    "no suffix of a PNG.jpg": (lambda x: picture("PNG", x), lambda x: x),
    "turned.png": (upright_of, lambda x: x),
    "invisible.png": (invisible, lambda x: np.full_like(x, 255)),
    "palette.png": (lambda x: picture("PNG", x[..., 0]), lambda x: x[..., :1].repeat(3, axis=-1)),
    "lossless.webp": (lambda x: picture("WEBP", x, lossless=True), lambda x: x),
    "packed.tif": (lambda x: picture("TIFF", x, compression="tiff_lzw"), lambda x: x),
    "text.ppm": (lambda x: b"P3 8 8 255 " + " ".join(map(str, x.ravel())).encode(), lambda x: x),
    "half as bright.ppm": (lambda x: b"P6 8 8 127 " + (x // 2).tobytes(), lambda x: np.round(x // 2 * (255 / 127))),
    "more than a picture.png": (lambda x: picture("PNG", x) + b"and a letter", lambda x: x),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_give_their_pixels(tmp_path: Path, name: str) -> None:
    write, expected = ODD[name]
    for i, pixels in enumerate(PIXELS):
        (tmp_path / f"{i:02}.png").write_bytes(picture("PNG", pixels))
    odd = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    (tmp_path / name).write_bytes(write(odd))
    found = datasets.load(tmp_path)
    images = np.concatenate([getattr(found, part).images for part in datasets.PARTS])
    known = {pixels.tobytes() for pixels in PIXELS}
    (one,) = [image for image in images if image.tobytes() not in known]
    assert np.abs(one.astype(int) - expected(odd)).max() <= (0 if name != "half as bright.ppm" else 1)


def test_an_interlaced_picture_is_read() -> None:
    found = transforms.decode(interlaced(), (1, 1, 3), Framing(), "it")
    assert found.tolist() == [[[9, 8, 7]]]


def test_results_of_something_else_are_not_overwritten(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for number, text in enumerate(("", "[1]", '{"network": [1]}', '{"network": {"name": 1}}', json.dumps("a"))):
        workdir = tmp_path / str(number)
        workdir.mkdir()
        file_of(workdir, "results.json", text.encode())
        before = snapshot(workdir)
        few = ["--K", "3", "--sample-K", "3", "--workdir", str(workdir)]
        said = refused("ablate", ["--checkpoint", str(trained), *few], capsys)
        assert f"{workdir} holds a results.json that is not of this experiment" in said
        assert snapshot(workdir) == before
