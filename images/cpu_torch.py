"""`python cpu_torch.py SITE_PACKAGES`: makes the CUDA build of torch small for machines without a GPU. Used by the `smoke` image.

PyPI has no CPU build of torch 2.5.1 for Linux. Its library for CUDA must stay, since torch's Python module is linked with
it, but a CPU never runs what is in there. So the GPU's machine code is overwritten by zeros, which compress to nothing, and
the CUDA libraries that it is linked with are replaced by empty ones of the same name: every function is there, and stops
the process if something calls it. What computes on a CPU (libtorch_cpu) is not touched.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import subprocess
import sys
from pathlib import Path

EMPTY = {
    # shared object → how the names of its functions begin
    "libcublas.so.12": r"cublas(?!Lt)",
    "libcublasLt.so.12": r"cublasLt",
    "libcudnn.so.9": r"cudnn",
    "libcufft.so.11": r"cufft",
    "libcurand.so.10": r"curand",
    "libcusparse.so.12": r"cusparse(?!Lt)",
    "libcusparseLt-294d6944.so.0": r"cusparseLt",
    "libnccl.so.2": r"p?nccl",
}
UNUSED = ("libtorch_cuda_linalg.so",)
"""Loaded when a GPU first solves equations."""
CHUNK = 1 << 24


def main() -> None:
    """Changes torch, and tells its RECORD so."""
    site = Path(sys.argv[1])
    libraries = site / "torch" / "lib"
    wanted = undefined(libraries)
    for name in UNUSED:
        (libraries / name).unlink()
    blank(libraries / "libtorch_cuda.so", b".nv_fatbin")
    for name, beginning in EMPTY.items():
        write_empty(libraries / name, sorted(symbol for symbol in wanted if re.match(beginning, symbol)))
    (record,) = site.glob("torch-*.dist-info/RECORD")
    update(record, [libraries / name for name in ("libtorch_cuda.so", *EMPTY, *UNUSED)])


def undefined(libraries: Path) -> set[str]:
    """Symbols that torch's libraries expect of others (nm(1))."""
    found: set[str] = set()
    for library in libraries.glob("libtorch*.so"):
        shown = subprocess.run(["nm", "-D", "--undefined-only", library], stdout=subprocess.PIPE, text=True, check=True)
        found |= {line.split()[-1].partition("@")[0] for line in shown.stdout.splitlines()}
    return found


def blank(library: Path, section: bytes) -> None:
    """Overwrites a section of a 64-bit ELF file by zeros (elf(5): e_shoff, e_shentsize, e_shnum, e_shstrndx)."""
    with open(library, "r+b") as file:
        header = file.read(64)
        (table,) = struct.unpack_from("<Q", header, 40)
        size, count, names = struct.unpack_from("<HHH", header, 58)
        file.seek(table)
        raw = file.read(size * count)
        # sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size
        sections = [struct.unpack_from("<IIQQQQ", raw, index * size) for index in range(count)]
        file.seek(sections[names][4])
        text = file.read(sections[names][5])
        for name, _, _, _, offset, length in sections:
            if text[name : text.index(b"\0", name)] == section:
                file.seek(offset)
                for start in range(0, length, CHUNK):
                    file.write(bytes(min(CHUNK, length - start)))
                return
    sys.exit(f"{library} has no section {section.decode()}")


def write_empty(library: Path, functions: list[str]) -> None:
    """A library of these functions, each one an illegal instruction, under the version that NVIDIA gives them: its name."""
    source = "".join(f".globl {name}\n.type {name}, @function\n{name}:\n" for name in functions) + "ud2\n"
    library.unlink(missing_ok=True)
    object_file = library.with_suffix(".o")
    subprocess.run(["as", "-o", object_file, "-"], input=source, text=True, check=True)
    link = ["ld", "-shared", "--default-symver", "--build-id=none", "-soname", library.name]
    subprocess.run([*link, "-o", library, object_file], check=True)
    object_file.unlink()


def update(record: Path, changed: list[Path]) -> None:
    """The lines of a wheel's RECORD for files that were changed, added or removed (PyPA, "Recording installed projects")."""
    site = record.parent.parent
    names = {str(path.relative_to(site)): path for path in changed}
    lines = [line for line in record.read_text().splitlines() if line.partition(",")[0] not in names]
    for name, path in names.items():
        if path.exists():
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            lines.append(f"{name},sha256={base64.urlsafe_b64encode(digest).decode().rstrip('=')},{path.stat().st_size}")
    record.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
