"""Attack a running VM from inside, as a program that was taken over would, and see which walls hold.

Each attack has a control: it works on the guest's own side, so that a dead attack is no pass.
"""
