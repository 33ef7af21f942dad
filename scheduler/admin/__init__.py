"""What an operator does with a journal: check it, ask what happened, copy, restore, compact it."""
