"""Measuring: how long starts take, against a stock VM, and what a tunnel costs.  Nothing else imports this."""
