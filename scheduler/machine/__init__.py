"""The rules of the scheduler as one pure state machine: `apply(state, event)` changes the state and returns effects.

No clock, no file, no socket: the same events give the same state, which is what recovery and replay rest on.
"""

from scheduler.machine.applying import apply

__all__ = ["apply"]
