"""From trained parameters of one mixer to those of another."""
