"""Stopping between two steps when the machine is wanted back."""

import signal

import jax
import numpy as np
from jax.experimental import multihost_utils

__all__ = ["GracefulStop"]


class GracefulStop:
  """Within it, the first SIGTERM or SIGINT is only noted; a second one acts as ever.

  Attributes:
    requested: Whether there was one.
  """

  SIGNALS = (signal.SIGTERM, signal.SIGINT)

  def __init__(self):
    self.requested = False

  def __enter__(self):
    self._before = {s: signal.signal(s, self._note) for s in self.SIGNALS}
    return self

  def __exit__(self, *exception):
    self._restore()

  def agreed(self) -> bool:
    """Whether any process was asked to stop. All processes must call it together."""
    if jax.process_count() == 1:
      return self.requested
    asked = multihost_utils.process_allgather(np.asarray(self.requested))
    return bool(np.any(asked))

  def _note(self, number, frame):
    self.requested = True
    self._restore()

  def _restore(self):
    for number, handler in self._before.items():
      signal.signal(number, handler)
