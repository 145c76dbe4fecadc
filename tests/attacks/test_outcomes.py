"""What calls and `attempt` make of an attack: numbered examples, verified results."""

import numpy as np
import pytest
from attack_cases import ATTACKS, MODEL, right


@pytest.mark.parametrize("name", ["pgd", "square"])
def test_examples_are_numbered_through_a_stream(name):
    """Batches one after another get what the whole gets; not numbered, all get the same noise."""
    images, labels = right(12)
    attack = ATTACKS[name](0.05)
    together = attack(MODEL, images, labels)
    halves = [attack(MODEL, images[k:][:6], labels[k:][:6], first_index=k) for k in (0, 6)]
    np.testing.assert_array_equal(np.concatenate(halves), together)
    same = [attack(MODEL, images[:6], labels[:6], first_index=k) for k in (0, 6)]
    assert (same[0] != same[1]).any()
    (swept,) = attack.sweep(MODEL, images[6:], labels[6:], [0.05], first_index=6)
    np.testing.assert_array_equal(swept, together[6:])
    with pytest.raises(ValueError, match="first_index"):
        attack(MODEL, images, labels, first_index=-1)
