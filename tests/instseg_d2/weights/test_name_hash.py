import hashlib
import logging
import re

import pytest

from instseg_d2.errors import WeightsError
from instseg_d2.weights.name_hash import hash_in_name, verify_hash_in_name

CONTENT = b"weights 1"
SHA = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
WRONG = "0123456789abcdef"


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("resnet50d_ra2-464e36ba.pth", "464e36ba"),
        ("cspdarknet53_ra_256-d05c7c21.pth", "d05c7c21"),
        (f"a-{SHA}.safetensors", SHA),
        ("sparse_inst_r50_giam_2b7d68.pth", "2b7d68"),
        ("model_final_f10217.pkl", "f10217"),
        ("a-464e36ba.pth.tar", "464e36ba"),
        ("a-464e36ba", "464e36ba"),
        # Iteration numbers, dates, words, and digits of other lengths.
        ("model_0004999.pth", None),
        ("model_004999.pth", None),
        ("model_final.pth", None),
        ("model_best.pth", None),
        ("a_20200130-20210203.pth", None),
        ("a-deadbeef.pth", None),
        ("a_facade.pth", None),
        ("a-464e36b.pth", None),
        ("a_464e36ba.pth", None),
        ("a_2b7d6.pth", None),
        ("a-464E36BA.pth", None),
        ("a-464e36ba-best.pth", None),
        ("464e36ba.pth", None),
        ("run-464e36ba/model_final.pth", None),
        (f"a-{SHA}0.pth", None),
    ],
)
def test_what_is_taken_for_a_hash(name, digits):
    assert hash_in_name(f"folder-0a0a0a0a/{name}") == digits


@pytest.mark.parametrize("name", [f"a-{SHA[:8]}.pth", f"a-{SHA}.pth", f"a_{SHA[:6]}.pth"])
def test_right_hash(tmp_path, caplog, name):
    assert hash_in_name(name), "the content is chosen so that its hash begins with a mixture"
    caplog.set_level(logging.INFO)
    (tmp_path / name).write_bytes(CONTENT)
    verify_hash_in_name(str(tmp_path / name))
    assert "has the hash in its name" in caplog.text


@pytest.mark.parametrize("digits", [f"-{WRONG}", f"_{WRONG[-6:-1]}1"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [(CONTENT, "damaged or was changed"), (b"", "is empty"), (b"<html>", "web page")],
)
def test_wrong_hash(tmp_path, digits, content, reason):
    path = tmp_path / f"a{digits}.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(str(path))) as error:
        verify_hash_in_name(str(path))
    actual = hashlib.sha256(content).hexdigest()[: len(digits) - 1]
    assert f"starts with {digits[1:]}, but it starts with {actual}" in str(error.value)
    assert reason in str(error.value)
    assert "MODEL.LOADING.VERIFY_HASH False" in str(error.value)


@pytest.mark.parametrize("digits", [SHA[:6], MD5[:6]])
def test_either_digest_will_do_for_detectron2(tmp_path, caplog, digits):
    caplog.set_level(logging.INFO)
    path = tmp_path / f"model_final_{digits}.pkl"
    path.write_bytes(CONTENT)
    verify_hash_in_name(str(path))
    assert [entry.levelno for entry in caplog.records] == [logging.INFO]


def test_another_digest_is_only_warned_of_for_detectron2(tmp_path, caplog):
    path = tmp_path / "model_final_0a0a0a.pkl"
    path.write_bytes(CONTENT)
    verify_hash_in_name(str(path))
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING]
    path = path.rename(tmp_path / "model_final_0a0a0a.pth")
    with pytest.raises(WeightsError):
        verify_hash_in_name(str(path))


def test_file_that_is_longer_than_one_read(tmp_path):
    content = b"ab" * (3 << 19) + b"c"
    path = tmp_path / f"a-{hashlib.sha256(content).hexdigest()}.pth"
    path.write_bytes(content)
    verify_hash_in_name(str(path))
    path.write_bytes(content[:-1])
    with pytest.raises(WeightsError):
        verify_hash_in_name(str(path))
