"""Do: look at the host once, perform the steps of a plan, talk to guests."""
