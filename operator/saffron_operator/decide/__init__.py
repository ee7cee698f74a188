"""What to do next: one pure function of what was observed and of the time.

Here belongs every rule about stages, gates, steps and conditions, each in the file of its concern; no I/O, no clock.
"""

from saffron_operator.decide.passes import decide
from saffron_operator.decide.unseen import unseen

__all__ = ["decide", "unseen"]
