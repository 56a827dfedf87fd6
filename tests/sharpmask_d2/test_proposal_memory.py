"""How much memory a thousand proposals take, at real size."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import re, sys, torch
from pathlib import Path
from instseg_d2.config import load_config
from instseg_d2.inference import prepare_for_inference
from instseg_d2.modeling import build_model

torch.set_num_threads(1)
preset, prepared = sys.argv[1:]
overrides = ["MODEL.DEVICE", "cpu", "MODEL.SHARP_MASK.PROPOSALS.PRESET", preset]
model = build_model(load_config("sharpmask/sharpmask_r50", overrides)).eval()
if prepared == "prepared":
    model = prepare_for_inference(model)
image = torch.randint(256, (3, 480, 640), dtype=torch.uint8)
def peak():  # in KiB; that of getrusage would be the parent process's, if that had more
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
proposals = model([{"image": image}])[0]["proposals"]
print(len(proposals), (peak() - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in Linux's unit")
@pytest.mark.parametrize(("preset", "form"), [("default", "as built"), ("zoom2", "prepared")])
def test_a_thousand_proposals_of_a_real_sharpmask_fit_into_memory(
    repo: Path, preset: str, form: str
) -> None:
    """Beside the model, random weights, one image of COCO's commonest size; the largest preset as
    the programs run it, prepared for inference."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, preset, form],
        cwd=repo, check=True, capture_output=True, text=True,
    )  # fmt: skip
    count, mebibytes = done.stdout.split()[-2:]
    assert int(count) == 1000
    assert 50 < float(mebibytes) < 1.5e9 / 2**20
