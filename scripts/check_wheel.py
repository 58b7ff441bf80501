# SPDX-License-Identifier: Apache-2.0

"""Check what is in a built wheel: typed, with the bundled model, without tests.

Usage: ``python scripts/check_wheel.py dist/unillm_sdk-0.1.0-py3-none-any.whl``
"""

from __future__ import annotations

import sys
import zipfile

MODEL_LIMIT_BYTES = 4 * 2**20
NEEDED = (
    "unillm/py.typed",
    "unillm/model/tiny/config.json",
    "unillm/model/tiny/generation_config.json",
    "unillm/model/tiny/model.safetensors",
    "unillm/model/tiny/tokenizer.json",
    "unillm/server/page/index.html",
    "unillm/server/page/main.js",
    "unillm/testing/contract/suite.py",
)


def problems(wheel: zipfile.ZipFile) -> list[str]:
    """Return what is wrong with a wheel, in words."""
    sizes = {info.filename: info.compress_size for info in wheel.infolist()}
    found = [f"{name} is missing" for name in NEEDED if name not in sizes]
    found += [
        f"{name} does not belong into a wheel"
        for name in sizes
        if not name.startswith(("unillm/", "unillm_sdk-"))
    ]
    model = sum(size for name, size in sizes.items() if "/model/tiny/" in name)
    if model > MODEL_LIMIT_BYTES:
        found.append(f"the bundled model has {model} bytes, over {MODEL_LIMIT_BYTES}")
    if not any(name.endswith("licenses/LICENSE") for name in sizes):
        found.append("the licence is missing")
    return found


def main(path: str) -> int:
    """Print what is wrong with the wheel at *path*; 1 if anything is."""
    with zipfile.ZipFile(path) as wheel:
        found = problems(wheel)
        total = sum(info.compress_size for info in wheel.infolist())
    for line in found:
        print(f"{path}: {line}")
    print(f"{path}: {total} bytes, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
