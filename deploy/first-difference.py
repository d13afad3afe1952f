#!/usr/bin/env python3
"""Says where two builds of one commit part, crate by crate, in the order in which they were compiled.

    deploy/first-difference.py TARGET-A/TRIPLE/dist TARGET-B/TRIPLE/dist

Looks at what build scripts made (build/*/out), at the members of every library (deps/*.rlib: objects of Rust and of C,
and the metadata), and at the sections of the programs. What comes first is the cause, or the nearest to it; metadata
alone (lib.rmeta) reaches no program. Ends with 1 if anything differs.
"""

import struct
import sys
from pathlib import Path


def members(path):
    """The files in an archive, by name."""
    data, at, names, found = path.read_bytes(), 8, b"", {}
    while at < len(data):
        name, size = data[at : at + 16].decode().rstrip(), int(data[at + 48 : at + 58])
        body = data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
        if name == "//":
            names = body
            continue
        if name == "/":
            continue
        if name[:1] == "/" and name[1:].isdigit():
            name = names[int(name[1:]) :].split(b"\n", 1)[0].decode()
        name = name.rstrip("/")
        while name in found:
            name += "+"
        found[name] = body
    return found


def sections(path):
    """The sections of a program (ELF, 64 bits, little endian), by name."""
    data = path.read_bytes()
    start, = struct.unpack_from("<Q", data, 0x28)
    size, count, strings = struct.unpack_from("<HHH", data, 0x3A)
    heads = [struct.unpack_from("<IIQQQQ", data, start + i * size) for i in range(count)]
    table, found = heads[strings][4], {}
    for name, kind, _, _, offset, length in heads:
        end = data.index(b"\0", table + name)
        # NOBITS has no bytes in the file.
        found[data[table + name : end].decode()] = b"" if kind == 8 else data[offset : offset + length]
    return found


def generated(folder):
    """What a build script left, by path."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: deploy/first-difference.py TARGET-A/TRIPLE/dist TARGET-B/TRIPLE/dist")
    first, second = map(Path, sys.argv[1:])
    steps = [(folder, generated) for folder in first.glob("build/*/out")]
    steps += [(file, members) for file in first.glob("deps/*.rlib")]
    steps += [(file, sections) for file in (first / "tallyd", first / "tally") if file.exists()]
    if not steps:
        sys.exit(f"FAILED: {first} holds no build")
    steps.sort(key=lambda step: (step[1] is sections, step[0].stat().st_mtime_ns))
    differ = 0
    for path, parts in steps:
        name = path.relative_to(first)
        other = second / name
        if not other.exists():
            print(f"{name}: only in {first}")
            differ += 1
            continue
        a, b = parts(path), parts(other)
        apart = [part for part in sorted(a.keys() | b.keys()) if a.get(part) != b.get(part)]
        if apart:
            differ += 1
            print(f"{name}: {len(apart)} of {len(a)} parts, {', '.join(apart[:3])}")
    print(f"{differ} of {len(steps)} differ")
    sys.exit(1 if differ else 0)


main()
