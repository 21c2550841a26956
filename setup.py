"""Builds the native extensions: Cython over the C kernels of src_c/ (everything else is in pyproject.toml).

FASTXFER_WERROR=1 turns every warning of the C compiler and of Cython into an error, as CI does.
FASTXFER_SANITIZE=address,undefined builds them with gcc's sanitizers, as `make sanitize` does.
"""

import os
import sys

import Cython.Compiler.Options as cython_options
from Cython.Build import cythonize
from setuptools import Extension, setup

WERROR = os.environ.get("FASTXFER_WERROR") == "1"
SANITIZE = os.environ.get("FASTXFER_SANITIZE")

KERNELS = {
    "checksum": ["crc64.c", "crc64_portable.c", "crc64_x86.c", "crc64_arm.c", "crc32c.c"],
    "bitmap": ["bitmap.c"],
    "memory": ["crc64.c", "crc64_portable.c", "crc64_x86.c", "crc64_arm.c"],
    "reader": ["crc64.c", "crc64_portable.c", "crc64_x86.c", "crc64_arm.c"],
    "writer": [
        "writer.c",
        "direct.c",
        "pages.c",
        "guard.c",
        "bitmap.c",
        "crc64.c",
        "crc64_portable.c",
        "crc64_x86.c",
        "crc64_arm.c",
    ],
    "answer": ["socket_state.c"],
    "polling": [],
    "whole_file": ["whole_file.c", "crc64.c", "crc64_portable.c", "crc64_x86.c", "crc64_arm.c"],
}


def extension(name: str) -> Extension:
    """Returns the extension fastxfer._native.<name> with the kernels it links."""
    warnings = ["-Wall", "-Wextra"] if sys.platform != "win32" else []
    if WERROR:
        # Cython's own output is not ours to make tidy: what it trips over by design stays a warning.
        warnings += ["-Werror", "-Wno-unused-parameter", "-Wno-error=unused-function", "-Wno-error=cpp"]
    sanitizers = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"] if SANITIZE else []
    debugging = ["-O1", "-g", "-fno-omit-frame-pointer"] if SANITIZE else []
    return Extension(
        f"fastxfer._native.{name}",
        [f"fastxfer/_native/{name}.pyx", *(f"src_c/{kernel}" for kernel in KERNELS[name])],
        include_dirs=["src_c"],
        depends=[f"src_c/{header}" for header in sorted(os.listdir("src_c")) if header.endswith(".h")],
        extra_compile_args=[
            *["-O3", "-std=c11", "-D_GNU_SOURCE", "-fvisibility=hidden"],
            *[*warnings, *sanitizers, *debugging],
        ],
        extra_link_args=sanitizers,
    )


cython_options.warning_errors = WERROR

setup(
    ext_modules=cythonize(
        [extension(name) for name in KERNELS],
        language_level=3,
        compiler_directives={"boundscheck": False, "wraparound": False, "embedsignature": True},
    )
)
