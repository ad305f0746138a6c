#!/usr/bin/env python3
"""Writes a file's bytes as a C++ array: embed.py INPUT OUTPUT NAME."""
import sys

with open(sys.argv[1], "rb") as source:
    data = source.read()
with open(sys.argv[2], "w", encoding="ascii") as out:
    out.write(f"inline constexpr unsigned char {sys.argv[3]}[{len(data)}] = {{\n")
    for at in range(0, len(data), 16):
        out.write("".join(f"{byte}," for byte in data[at : at + 16]) + "\n")
    out.write("};\n")
