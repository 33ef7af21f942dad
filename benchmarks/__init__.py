"""Commands that print figures; every number in the README comes from one of them."""
