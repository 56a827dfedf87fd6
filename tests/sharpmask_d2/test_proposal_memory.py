"""How much memory a thousand proposals take, at real size."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import re, torch
from pathlib import Path
from instseg_d2.config import load_config
from instseg_d2.modeling import build_model

torch.set_num_threads(1)
cfg = load_config("sharpmask/sharpmask_r50", ["MODEL.DEVICE", "cpu"])
model = build_model(cfg).eval()
image = torch.randint(256, (3, 480, 640), dtype=torch.uint8)
def peak():  # in KiB; that of getrusage would be the parent process's, if that had more
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
proposals = model([{"image": image}])[0]["proposals"]
print(len(proposals), (peak() - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in Linux's unit")
def test_a_thousand_proposals_of_a_real_sharpmask_fit_into_memory(repo: Path) -> None:
    """Beside the model, random weights, one image of COCO's commonest size."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=repo, check=True, capture_output=True, text=True
    )
    count, mebibytes = done.stdout.split()[-2:]
    assert int(count) == 1000
    assert 50 < float(mebibytes) < 1.5e9 / 2**20
