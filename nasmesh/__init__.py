"""Neural architecture search as a service mesh: the library. Imports no program."""

__version__ = "0.1.0"
