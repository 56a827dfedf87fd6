"""Where half precision can be computed in."""

import torch

from .errors import ConfigError, DeviceError


def check_half_precision(dtype: torch.dtype, device: str, key: str) -> None:
    """See that a device has arithmetic for float16 or bfloat16.

    Args:
        dtype: one of the two.
        device: as in ``MODEL.DEVICE``.
        key: the config key that asks for it, for the message.

    Raises:
        ConfigError: float16 on the CPU.
        DeviceError: bfloat16 on a GPU that has none.
    """
    if dtype == torch.float16 and device.startswith("cpu"):
        raise ConfigError(
            f"{key} float16 needs a GPU, but MODEL.DEVICE is cpu; give {key} bfloat16"
        )
    # Without emulation: it is slower than float32.
    if (
        dtype == torch.bfloat16
        and device.startswith("cuda")
        and torch.cuda.is_available()
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise DeviceError(
            f"{key} is bfloat16, which this GPU has no arithmetic for; give {key} float16"
        )
