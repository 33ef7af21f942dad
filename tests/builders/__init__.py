"""Builders of things that tests need, instead of fixture trees."""
