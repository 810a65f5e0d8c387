"""Files of strangers, read within bounds: only regular ones (a pipe or a device never ends), compressed ones up to a size."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import os
import stat
import zlib
from pathlib import Path
from typing import BinaryIO

#: How large a compressed file may become, bytes. The largest question set known is a tenth of it.
MOST_UNPACKED = 128 << 20
_BLOCK = 1 << 20


def open_regular(path: Path) -> BinaryIO:
    """``path`` opened for reading. Raises `OSError`, also where it is a folder, a pipe, a socket or a device."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(
            errno.EINVAL, "it is no regular file (a pipe or a device?); copy what it gives into a file", str(path)
        )
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path) -> bytes:
    """All of a regular file. Raises `OSError`."""
    with open_regular(path) as stream:
        return stream.read()


def unpacked(path: Path, data: bytes) -> bytes:
    """``data`` without the compression that the name says (``.gz``, ``.bz2``). Raises `OSError` where it is damaged or beyond
    `MOST_UNPACKED`."""
    if path.suffix not in (".gz", ".bz2"):
        return data
    packed = io.BytesIO(data)
    content = bytearray()
    try:
        with gzip.open(packed) if path.suffix == ".gz" else bz2.open(packed) as stream:
            while block := stream.read(_BLOCK):
                content += block
                if len(content) > MOST_UNPACKED:
                    raise OSError(errno.EFBIG, f"unpacked it is larger than {MOST_UNPACKED >> 20} MiB")
    except (EOFError, ValueError, zlib.error) as error:
        raise OSError(errno.EIO, f"it is damaged ({error})") from error
    return bytes(content)


def decoded(data: bytes) -> str:
    """UTF-8 text without its byte-order mark, lines ended by ``\\n`` alone. Raises `UnicodeDecodeError`."""
    return data.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
