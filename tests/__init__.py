"""Tests; importable so that parts share builders."""
