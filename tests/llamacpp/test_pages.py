"""What a mapped file has in memory, given back and read again; what the process wrote itself stays."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cerebellum.llamacpp import memory_trim
from cerebellum.llamacpp.memory_trim import give_back, mappings

SIZE = 64 * mmap.PAGESIZE

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="this system has no /proc/self/smaps")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file.bin"
    path.write_bytes(bytes(i % 251 for i in range(SIZE)))
    return path


@contextmanager
def mapped(path: Path, protection: int) -> Iterator[mmap.mmap]:
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), SIZE, flags=mmap.MAP_PRIVATE, prot=protection) as view:
        yield view


def resident(path: Path) -> int:
    return sum(m.resident for m in mappings() if m.path == str(path.resolve()))


def test_clean_pages_are_given_back_and_read_again(file: Path) -> None:
    with mapped(file, mmap.PROT_READ) as view:
        assert view[:] == file.read_bytes() and resident(file) == SIZE
        assert give_back(file.parent) == SIZE
        assert resident(file) == 0
        assert view[:] == file.read_bytes() and resident(file) == SIZE


def test_what_this_process_wrote_stays(file: Path) -> None:
    """A changed page of a private mapping is in no file: neither while it can be written nor after."""
    with mapped(file, mmap.PROT_READ | mmap.PROT_WRITE) as view:
        view[5] = 255
        assert give_back(file.parent) == 0 and view[5] == 255
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
        libc = ctypes.CDLL(None)
        assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(SIZE), mmap.PROT_READ) == 0
        assert [m.rights for m in mappings() if m.path == str(file.resolve())] == ["r--p"]
        assert give_back(file.parent) == 0 and view[5] == 255


SMAPS = """\
7f0000000000-7f0000001000 r--p 00000000 fe:00 42                         /opt/caf\udce9/lib.so
Size:                  4 kB
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  0 kB
7f0000001000-7f0000003000 r--p 00001000 fe:00 42                         /opt/caf\udce9/lib.so
Rss:                   0 kB
Anonymous:             0 kB
Swap:                  8 kB
7f0000003000-7f0000004000 rw-p 00000000 00:00 0\x20
Rss:                   4 kB
Anonymous:             4 kB
Swap:                  0 kB
"""


def test_a_page_that_is_swapped_out_is_the_process_s_own(tmp_path: Path) -> None:
    """It counts as neither resident nor anonymous; and a file's name need not be text."""
    table = tmp_path / "smaps"
    table.write_bytes(SMAPS.encode(errors="surrogateescape"))
    found = [(m.rights, m.path, m.resident, m.private) for m in mappings(table)]
    path = "/opt/caf\udce9/lib.so"
    assert found == [("r--p", path, 4096, 0), ("r--p", path, 0, 8192), ("rw-p", "", 4096, 4096)]


def test_only_files_below_the_folder_are_meant(file: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with mapped(file, mmap.PROT_READ) as view:
        assert view[SIZE - 1] == (SIZE - 1) % 251
        assert give_back(tmp_path / "a") == 0 and resident(file) > 0


def test_a_system_without_the_table_gives_nothing_back(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Iterator[memory_trim.Mapping]:
        return mappings(file.parent / "missing")

    monkeypatch.setattr(memory_trim, "mappings", none)
    assert give_back(file.parent) == 0


def test_the_compiler_is_not_kept_in_memory_and_still_works() -> None:
    """LLVM has some 70 MB resident when the kernels are linked."""
    code = """
from pathlib import Path
import llvmlite, numba, numpy as np
from cerebellum.scoring.loops import kernels
from cerebellum.llamacpp.memory_trim import drop_compiler, mappings
folder = str(Path(llvmlite.__file__).parent.resolve())
def resident(): return sum(m.resident for m in mappings() if m.path.startswith(folder))
before = resident()
drop_compiler()
out = np.empty(1); kernels.exponentials(np.zeros(1), out)
after = resident()
doubled = numba.njit("int64(int64)")(lambda x: 2 * x)(21)
print(out[0], doubled, after < 8e6 < min(before, resident()))
"""
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert ran.stdout.split() == ["1.0", "42", "True"], ran.stdout + ran.stderr
