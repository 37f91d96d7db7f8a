"""What a file is: by its first bytes, and by its name where those say nothing; and how it is unpacked.

A name is only ever a claim: HDF5 and Parquet are known by their first bytes, and so is what a table is packed with. A
file without any of these is a table of text, unless its name says otherwise; then its reader says what is wrong.
"""

import bz2
import contextlib
import gzip
import lzma
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from offline_rl.errors import DatasetError, brief

Kind = Literal["hdf5", "parquet", "text"]

HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf")
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zip", ".zst")
FILE_SUFFIXES = (*HDF5_SUFFIXES, ".csv", ".parquet", *PACKED_SUFFIXES)
_NAME = re.compile(r"(.+?)(\.(?:hdf5|h5|hdf|csv|parquet))?(\.(?:gz|bz2|xz|zip|zst))?", re.IGNORECASE)

HDF5 = b"\x89HDF\r\n\x1a\n"
PARQUET = b"PAR1"
PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
}
ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}

EXPANSION_LIMIT = 100
"""Bytes of table that one byte of a packed file may hold; tables of numbers are packed five to twenty times."""
EXPANSION_ALLOWANCE = 256 << 20
XZ_MEMORY = 1 << 28
"""Bytes that unpacking xz may use, whatever the file asks for; `xz -9` needs a quarter."""
BLOCK = 1 << 20
# zipfile raises RuntimeError for a password, NotImplementedError for a packing it does not know; zlib.error is its own.
UNPACKING_ERRORS = (OSError, EOFError, ValueError, RuntimeError, lzma.LZMAError, zipfile.BadZipFile, zlib.error)


def stem(name: str) -> str:
    """Return the name of a file without what says its kind: "plant" for "plant.csv.gz"; other names stay."""
    found = _NAME.fullmatch(name)
    return found[1] if found and (found[2] or found[3]) else name


def kind_of(path: Path) -> Kind:
    """Say what a file is; one that is packed counts as what it holds, by its name.

    Raises:
        DatasetError: It cannot be opened.
    """
    start = _start(path)
    if start.startswith(HDF5):
        return "hdf5"
    if start.startswith(PARQUET):
        return "parquet"
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in HDF5_SUFFIXES:
        return "hdf5"
    if suffixes and suffixes[-1] == ".parquet":
        return "parquet"
    return "text"


@contextlib.contextmanager
def plain_text(path: Path) -> Iterator[Path]:
    """Give a table of text as it is, unpacked into a file of its own for as long as it is read.

    Raises:
        DatasetError: It is damaged, is no text, or holds out of all proportion more than its size lets expect.
    """
    packing = _packing(_start(path))
    if packing is None:
        _check_text(path, _start(path))
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="offline-rl-") as file:
        try:
            _unpack(path, packing, file)
        except DatasetError:
            raise
        except ImportError:
            raise DatasetError(f"{path} is packed with {packing}, which needs pyarrow; unpack it first") from None
        except UNPACKING_ERRORS as error:
            raise DatasetError(
                f"{path} cannot be unpacked as {packing} ({brief(error)}); copy it again, or unpack it"
            ) from error
        file.flush()
        inner = Path(file.name)
        start = _start(inner)
        if start.startswith((HDF5, PARQUET)) or _packing(start):
            raise DatasetError(f"{path} holds no text within {packing}, but a file of another kind; unpack it first")
        _check_text(path, start)
        yield inner


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1 << 12)
    except OSError as error:
        reason = error.strerror or error
        raise DatasetError(f"{path} cannot be opened ({reason}); ask for permission to read it") from None


def _packing(start: bytes) -> str | None:
    return next((name for magic, name in PACKED.items() if start.startswith(magic)), None)


def _check_text(path: Path, start: bytes) -> None:
    for mark, name in ENCODINGS.items():
        if start.startswith(mark):
            raise DatasetError(f"{path} is text in {name}; export it again as UTF-8")
    if b"\x00" in start:
        raise DatasetError(f"{path} is no HDF5, Parquet or CSV file; give one of these")


def _unpack(path: Path, packing: str, target: IO[bytes]) -> None:
    """Write what a file holds, up to a bound in proportion to its size."""
    size = path.stat().st_size
    bound, written = EXPANSION_ALLOWANCE + EXPANSION_LIMIT * size, 0
    for block in _OPENED[packing](path):
        written += len(block)
        if written > bound:
            raise DatasetError(
                f"{path} holds over {bound / 1e6:,.0f} MB in {size / 1e6:,.2f} MB, more than a table does; unpack it "
                "first, or get it from a trusted place"
            )
        target.write(block)


def _blocks(open_file: Callable[[Path], Any]) -> Callable[[Path], Iterator[bytes]]:
    def read(path: Path) -> Iterator[bytes]:
        with open_file(path) as file:
            while block := file.read(BLOCK):
                yield block

    return read


def _xz(path: Path) -> Iterator[bytes]:
    """Yield what an xz file holds; Python's own reader lets the file say how much memory that takes."""
    with path.open("rb") as file:
        decoder, given = lzma.LZMADecompressor(memlimit=XZ_MEMORY), b""
        while True:
            if decoder.eof:
                rest = (decoder.unused_data or file.read(BLOCK)).lstrip(b"\x00")  # streams may be padded
                if not rest:
                    return
                decoder, given = lzma.LZMADecompressor(memlimit=XZ_MEMORY), rest
            elif decoder.needs_input and not given:
                given = file.read(BLOCK)
                if not given:
                    raise EOFError("it is cut short")
            yield decoder.decompress(given, BLOCK)
            given = b""


@contextlib.contextmanager
def _zip_member(path: Path) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) != 1:
            raise DatasetError(f"{path} is a zip of {len(members)} files; unpack it and give one table in it")
        with archive.open(members[0]) as file:
            yield file


def _zstd(path: Path) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")


_OPENED: dict[str, Callable[[Path], Iterator[bytes]]] = {
    "gzip": _blocks(gzip.open),
    "bzip2": _blocks(bz2.open),
    "xz": _xz,
    "zip": _blocks(_zip_member),
    "zstd": _blocks(_zstd),
}
