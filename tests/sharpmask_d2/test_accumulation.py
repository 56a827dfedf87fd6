"""The losses of DeepMask and SharpMask are means over patches: batches add up, weighted alike."""

import pytest
import torch

from tests.accumulated_steps import train_in_parts
from tests.sharpmask_d2.small_networks import patches, small_model

#: The second batch of each step has no mask, or nothing but masks.
STEPS = ("mm+m--", "+-mmmm", "m++---")


@pytest.mark.parametrize("architecture", ["DeepMask", "SharpMask"])
@pytest.mark.parametrize("frozen", [False, True])
def test_parameters_are_those_of_one_large_batch(architecture: str, frozen: bool) -> None:
    states = []
    for parts in (1, 2, 3):
        torch.manual_seed(0)
        # Dropout would draw other numbers.
        model = small_model(architecture, HEAD__DROPOUT=0.0, FREEZE_FEEDFORWARD=frozen).double()
        start = {name: value.clone() for name, value in model.state_dict().items()}
        data = [patches(model, kinds) for kinds in STEPS]
        parameters = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.SGD(parameters, 1e-3)
        states.append(train_in_parts(model, data, optimizer, parts))
    assert any(not torch.allclose(states[0][name], start[name]) for name in start)
    for state in states[1:]:
        # The losses themselves are computed in float32.
        torch.testing.assert_close(state, states[0], rtol=1e-5, atol=1e-7)
