"""The simulator: whole meshes in virtual time, faults by chance, every seed replays. `python -m tests.sim.run`."""
