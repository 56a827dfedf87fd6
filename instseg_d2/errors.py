"""Mistakes that the person at the keyboard can mend.

``train_net.py`` and the tools print these without a traceback: the message alone must say what was
wrong, where (file, image id, annotation id, config key) and what to do.
"""


class UserError(Exception):
    """Base of every error whose message is written for the user rather than for a developer."""


class ConfigError(UserError, ValueError):
    """A config file, key or value that cannot be used."""


class DataError(UserError):
    """A data set, annotation or image that cannot be used."""


class NonFiniteError(DataError):
    """A model's answer to an image that holds infinite values or NaN: the model is at fault."""


class NonFiniteStepError(UserError, FloatingPointError):
    """A training step with losses or gradients that are infinite or NaN."""


class WeightsError(UserError):
    """A weights file that is absent, damaged or belongs to another model."""


class DeviceError(UserError):
    """A device that was asked for and is not there."""


class DependencyError(UserError):
    """A package that is not installed and was asked for."""


def user_message(error: UserError) -> str:
    """The message alone: a data loader's worker wraps it into its traceback."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text.rsplit(f"{type(error).__name__}: ", 1)[-1].strip()
