"""Packaging of instseg-d2: the packages and the configs. Imports nothing but setuptools."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def read_version() -> str:
    """Return ``__version__`` of ``instseg_d2`` without importing it: it is kept there alone."""
    text = (HERE / "instseg_d2" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError('instseg_d2/__init__.py has no line __version__ = "..."')
    return found.group(1)


def read_long_description() -> str:
    """Return README.md, or nothing where it is absent."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


# Detectron2 itself is on no package index: `python -m instseg_d2.install_detectron2` brings it.
INSTALL_REQUIRES = [
    "torch>=2.4",
    "torchvision>=0.19",
    "numpy>=1.26",
    "scipy>=1.11",
    "opencv-python>=4.8",
    "tqdm>=4.62",
    # COCO's figures in C++; pycocotools is the fallback.
    "faster-coco-eval>=1.8",
    # The backbones beside Detectron2's.
    "timm>=1.0.20",
    "safetensors>=0.4",
    # Escapes what goes into HTML pages.
    "markupsafe>=2.0",
    # fvcore crops polygons with it.
    "shapely>=2.0",
    # What Detectron2 requires. Its upper bound on iopath and its formatter (black) are left out:
    # it works with newer iopath, and uses black only to print lazy configs prettily.
    "Pillow>=9.5",
    "cloudpickle",
    "fvcore>=0.1.5,<0.1.6",
    "hydra-core>=1.1",
    "iopath>=0.1.7",
    "matplotlib>=3.6",
    "omegaconf>=2.1,<2.4",
    "packaging",
    "pycocotools>=2.0.8",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    # detectron2.model_zoo imports pkg_resources, which setuptools 82 dropped.
    "setuptools<82",
]

EXTRAS_REQUIRE = {
    # Detectron2 reads LVIS, and Cityscapes is evaluated, with these.
    "datasets": ["cityscapesscripts>=2.2", "lvis>=0.5.3"],
    "dev": [
        "cityscapesscripts>=2.2",
        "hypothesis>=6.80",
        "lvis>=0.5.3",
        "mypy>=1.11",
        "pytest>=8",
        "pytest-timeout>=2.2",
        "pytest-xdist>=3.7",  # make test: as many processes as there are cores
        "ruff>=0.6",
        # An independent reader of Torch7's files.
        "torchfile>=0.1",
        "wheel",
    ],
    # torch.onnx writes its graphs with onnxscript.
    "export": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.3"],
}

# The configs stand at the top of the checkout, where people look for them, and are installed
# inside a package, where an installed copy finds them. The "package" holds YAML files only.
CONFIGS = "instseg_d2.configs"

setup(
    name="instseg-d2",
    version=read_version(),
    description="SparseInst instance segmentation on Detectron2 and current PyTorch",
    long_description=read_long_description(),
    long_description_content_type="text/markdown",
    author="The instseg-d2 authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10,<3.14",
    packages=[
        *find_packages(include=["instseg_d2*", "sharpmask_d2*", "sparseinst_d2*"]),
        CONFIGS,
    ],
    package_dir={CONFIGS: "configs"},
    package_data={CONFIGS: ["**/*.yaml"]},
    include_package_data=False,
    zip_safe=False,
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
